"""The evaluate stage: what is said of a network before and after its prototypes were moved."""

import argparse
from pathlib import Path

import pytest
import torch

from protodl.data.datasets import Split, load_split, split_validation
from protodl.data.download import download
from protodl.evaluation.accuracy import evaluate
from protodl.network.checkpoint import save_network
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork
from protodl.training.trainer import build_network
from stages import evaluate as stage
from tests.factories import training, write_params

ROOT = Path(__file__).parents[2]
ROW = "grey"
CPU = torch.device("cpu")


class Case:
    """One seed of a row: its files, and what it is measured with."""

    def __init__(self, folder: Path) -> None:
        """Write an untrained network, whose prototypes are codes of cases, and its params.yaml."""
        rows = {ROW: {"dataset": "mnist", "model": {"prototype_init": "data", "project": "partly"}}}
        params = write_params(folder, rows, source="sample")
        sample = ROOT / "data" / "sample"
        data = folder / "data"
        download("mnist", data, raw=folder, sample=sample, source="sample")
        train, validation = split_validation(load_split(data / "train.pt"), 400, 0)
        experiment = params.experiment(ROW)
        torch.manual_seed(0)
        self.measures = stage.Measures(
            train,
            validation,
            load_split(data / "test.pt"),
            Judge("mnist").eval(),
            experiment.loss,
            CPU,
        )
        self.network = build_network(experiment, train, 0).eval()
        self.log = training(params, ROW, 0)
        self.options = argparse.Namespace(
            models=folder / "models", references=folder / "references"
        )
        save_network(self.network, folder / "models" / "seed-0.pt")

    def evaluated(self, before: PrototypeNetwork) -> dict[str, dict[str, float]]:
        save_network(before, self.options.models / "seed-0-unprojected.pt")
        found = stage.evaluate_seed(self.options, self.log, self.measures)
        return {kind: found[kind] for kind in ("metrics", "unprojected")}


@pytest.fixture(name="case")
def _case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_prototypes_that_moved_are_measured_before_and_after(case: Case) -> None:
    before = PrototypeNetwork(case.network.config, 1, 28)
    before.load_state_dict(case.network.state_dict())
    with torch.no_grad():
        before.prototypes[:] = before.prototypes.roll(3, dims=0)  # classes change places
    found = case.evaluated(before.eval())
    test: Split = case.measures.test
    for network, kind in ((case.network, "metrics"), (before, "unprojected")):
        result = evaluate(network, test, case.measures.loss, CPU)
        assert found[kind]["test_accuracy"] == result.accuracy
    assert found["metrics"]["test_accuracy"] != found["unprojected"]["test_accuracy"]


def test_a_row_that_is_not_projected_has_nothing_from_before(case: Case) -> None:
    config = case.network.config.model_copy(update={"project": False})
    network = PrototypeNetwork(config, 1, 28)
    network.load_state_dict(case.network.state_dict())
    save_network(network.eval(), case.options.models / "seed-0.pt")
    found = stage.evaluate_seed(case.options, case.log, case.measures)
    assert found["unprojected"] == {}


def test_prototypes_that_stayed_are_measured_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    whole = stage.Measures.of

    def counting(self: stage.Measures, *arguments: object) -> stage.Measured:
        measured.append(arguments)
        return whole(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.Measures, "of", counting)
    found = case.evaluated(case.network)
    assert len(measured) == 1
    facts = {"prototype_limit", "case_limit", "train_seconds", "num_epochs"}
    assert found["unprojected"] == {k: v for k, v in found["metrics"].items() if k not in facts}
