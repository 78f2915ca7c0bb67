"""`protodl verify` on a computed row: as it is, and with weights, numbers or machine altered."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from protodl.cli import main
from protodl.core.files import write_json
from protodl.core.machine import processor_name
from protodl.core.training_log import SeedEvaluation, SeedLog
from protodl.evaluation.examiner import summarise
from protodl.explanation.loading import load
from protodl.explanation.portable import save_portable
from protodl.network.checkpoint import load_network, save_network
from protodl.pipeline import verify as module
from protodl.pipeline.lock import dvc_hash, listing, locked_hashes
from protodl.pipeline.verify import verify
from tests.pipeline.project import Project

ROW = "grey"
SEED = "results/rows/grey/{}/seed-0.json"
LEFT_OUT = shutil.ignore_patterns(".git", "ml*", "pictures", "explanations", "__pycache__", "raw")


@pytest.fixture(name="project")
def _project(computed: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed; the working directory."""
    shutil.copytree(computed.folder, tmp_path / "project", ignore=LEFT_OUT)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def status(arguments: list[str]) -> int:
    """The exit status of the command."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def lock_again(project: Path, *names: str) -> None:
    """Let dvc.lock have these files and folders as they are now."""
    before = locked_hashes(project, f"evaluate@{ROW}")
    text = (project / "dvc.lock").read_text()
    for name in names:
        text = text.replace(before[name], dvc_hash(project / name))
    (project / "dvc.lock").write_text(text)


def test_what_was_computed_here_is_equal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(project)
    assert status(["verify", ROW]) == 0
    printed = capsys.readouterr().out
    assert "Equal: grey: 9 files and folders are those of dvc.lock" in printed
    assert "numbers of seed 0 the recorded ones, to the bit" in printed
    assert "Not compared" not in printed
    assert listing(project) == before


def test_a_seed_trained_again_has_the_recorded_weights_and_curves(project: Path) -> None:
    before = listing(project)
    found = verify(project, ROW, retrain=True)
    assert found.equal, found.table()
    assert [each.what for each in found.numbers] == [
        "weights", "seed 0: learning curves", "seed 0: numbers",
    ]  # fmt: skip
    assert found.numbers[0].count == len(list((project / "models" / ROW).iterdir()))
    assert listing(project) == before


@pytest.mark.faults
def test_an_altered_weight_is_named_with_what_it_does(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "models" / ROW / "seed-0.pt"
    network = load_network(path)
    with torch.no_grad():
        network.head.weight[0, 0] += 0.5
    save_network(network, path)
    assert status(["verify", ROW, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    files, numbers = found["records"][0]["differing"], found["numbers"][0]["differing"]
    assert list(files) == ["models/grey/seed-0.pt"]
    recorded, here = numbers["metrics.test_loss"]
    assert recorded != here
    assert "models/grey/seed-0.pt changed after `dvc repro`" in found["conclusion"]
    path.write_bytes(b"nothing")  # not even a network: no number, but a difference all the same
    found = verify(project, ROW)
    assert not found.equal and not found.seeds
    assert "seed-0.pt: cannot be read" in found.conclusion()
    (project / "data" / "mnist" / "train.pt").write_bytes(b"nothing")
    assert "data/mnist" in verify(project, ROW).conclusion()


@pytest.mark.faults
def test_an_altered_number_is_named_with_its_difference(project: Path) -> None:
    path = project / "results" / "results.json"
    rows = json.loads(path.read_text())
    rows[0]["test_accuracy_mean"] += 0.01
    write_json(rows, path)
    found = verify(project, ROW)
    assert list(found.records[1].differing) == ["results.json.test_accuracy_mean"]
    assert re.search(r"test_accuracy_mean .*\| +-0\.01 \|", found.table())
    assert "which no machine explains" in found.conclusion()
    path = project / SEED.format("evaluation")
    path.write_text(path.read_text().replace('"test_accuracy": 0.', '"test_accuracy": 0.1'))
    assert "results/rows/grey/evaluation" in verify(project, ROW).conclusion()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("processor", "change", "words"),
    [
        ("Abacus, 2 cores", 1e-6, "which the machine explains (processor: Abacus, 2 cores then"),
        ("Abacus, 2 cores", 0.05, "by more than another machine explains (processor: Abacus"),
        (processor_name(), 1e-6, "as other instructions of a processor make it"),
        (processor_name(), 0.05, "the same, and so does not explain it"),
    ],
)
def test_another_machine_explains_rounding_and_no_more(
    project: Path, processor: str, change: float, words: str
) -> None:
    training, evaluation = (project / SEED.format(name) for name in ("training", "evaluation"))
    log = SeedLog.read(training)
    elsewhere = log.environment | {"processor": processor}
    log.model_copy(update={"environment": elsewhere}).write(training)
    kept = SeedEvaluation.read(evaluation)
    other = kept.metrics | {"test_loss": kept.metrics["test_loss"] * (1 + change)}
    kept.model_copy(update={"metrics": other}).write(evaluation)
    summarise([SeedEvaluation.read(evaluation)]).write(project / "results/rows/grey/metrics.json")
    changed = ("training", "evaluation", "metrics.json")
    lock_again(project, *(f"results/rows/grey/{name}" for name in changed))
    (project / "results" / "results.json").unlink()
    found = verify(project, ROW)
    assert list(found.numbers[0].differing) == ["metrics.test_loss"]
    assert words in found.conclusion()


@pytest.mark.faults
def test_a_clone_verifies_what_it_can_by_the_shipped_weights(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fingerprint = json.loads((project / SEED.format("training")).read_text())["fingerprint"]
    weights = tmp_path / f"{ROW}.safetensors"
    save_portable(load(ROW, root=project), {"fingerprint": fingerprint}, weights)
    shutil.rmtree(project / "models")
    assert status(["verify", ROW]) == 2
    assert "models/grey/seed-0.pt: not there; train it" in capsys.readouterr().err
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    found = verify(project, ROW)
    assert found.equal and found.seeds == [0]
    assert {"models/grey is not here", "models/judges/mnist.pt is not here"} <= {*found.left_out}
    shutil.rmtree(project / "data" / "mnist")
    assert status(["verify", ROW]) == 2
    message = capsys.readouterr().err
    assert "data/mnist/train.pt: " in message and "run `dvc repro download@mnist`" in message


def test_rows_and_records_that_are_not_there(project: Path, capsys: Any) -> None:
    assert status(["verify", "gray"]) == 2
    assert "did you mean 'grey'" in capsys.readouterr().err
    (project / "dvc.lock").unlink()
    assert status(["verify", ROW]) == 2
    assert "dvc.lock: nothing of stage evaluate@grey" in capsys.readouterr().err
