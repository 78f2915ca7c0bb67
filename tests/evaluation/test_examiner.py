"""The examiner: what is said of a network before and after its prototypes were moved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from protodl.data.datasets import DATASETS, load_split, split_validation, to_unit_interval
from protodl.data.download import download
from protodl.evaluation.accuracy import evaluate
from protodl.evaluation.examiner import Examiner, Measured
from protodl.evaluation.quality import calibration_error
from protodl.network.cases import measure_case_base
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork
from protodl.training.prototypes import build_network
from tests.factories import training, write_params

ROOT = Path(__file__).parents[2]
ROW = "grey"
CPU = torch.device("cpu")


class Case:
    """One seed of a row, and what it is measured with."""

    def __init__(self, folder: Path) -> None:
        """Build an untrained network, whose prototypes are codes of cases."""
        rows = {
            ROW: {
                "dataset": "mnist",
                "model": {"prototype_init": "data", "project": "until_class_nearest"},
            }
        }
        params = write_params(folder, rows, source="sample")
        sample = ROOT / "data" / "sample"
        data = folder / "data"
        download("mnist", data, raw=folder, sample=sample, source="sample")
        train, validation = split_validation(load_split(data / "train.pt"), 400, 0)
        experiment = params.experiment(ROW)
        torch.manual_seed(0)
        self.examiner = Examiner(
            train,
            validation,
            load_split(data / "test.pt"),
            Judge(DATASETS["mnist"]).eval(),
            experiment.loss,
            CPU,
        )
        self.network = build_network(experiment, train, 0).eval()
        self.log = training(params, ROW, 0)

    def evaluated(self, before: PrototypeNetwork | None) -> dict[str, dict[str, float]]:
        examiner, network = self.examiner, self.network
        case_base = measure_case_base(network, examiner.train, examiner.validation)
        found = examiner.evaluate_seed(self.log, network, case_base, before)
        return {"metrics": found.metrics, "unprojected": found.unprojected}


@pytest.fixture(name="case")
def _case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_prototypes_that_moved_are_measured_before_and_after(case: Case) -> None:
    before = PrototypeNetwork(case.network.config, 1, 28)
    before.load_state_dict(case.network.state_dict())
    with torch.no_grad():
        before.prototypes[:] = before.prototypes.roll(3, dims=0)  # classes change places
    found = case.evaluated(before.eval())
    test = case.examiner.test
    assert test is not None
    for network, kind in ((case.network, "metrics"), (before, "unprojected")):
        result = evaluate(network, test, case.examiner.loss, CPU)
        assert found[kind]["test_accuracy"] == result.accuracy
        with torch.inference_mode():
            logits = network(to_unit_interval(test.images)).logits
        error = calibration_error(logits.double().softmax(dim=1), test.labels)
        assert found[kind]["calibration_error"] == pytest.approx(error, abs=1e-5)
    assert found["metrics"]["test_accuracy"] != found["unprojected"]["test_accuracy"]


def test_a_row_that_is_not_projected_has_nothing_from_before(case: Case) -> None:
    assert case.evaluated(None)["unprojected"] == {}


def test_prototypes_that_stayed_are_measured_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    whole = Examiner.measure

    def counting(self: Examiner, *arguments: Any) -> Measured:
        measured.append(arguments)
        return whole(self, *arguments)

    monkeypatch.setattr(Examiner, "measure", counting)
    found = case.evaluated(case.network)
    assert len(measured) == 1
    facts = {"prototype_limit", "case_limit", "train_seconds", "num_epochs"}
    assert found["unprojected"] == {k: v for k, v in found["metrics"].items() if k not in facts}
