"""The report stage and MLflow's side of the table, on real files and real stores."""

import json
import re
import shutil
import socket
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from protodl.cli import main
from protodl.core.config import Params
from protodl.core.experiment_config import ModelConfig
from protodl.core.files import CheckpointError
from protodl.core.training_log import ResultsError, SeedLog
from protodl.network.cases import CaseBase, save_case_base
from protodl.network.checkpoint import save_network
from protodl.network.network import Classifier, PrototypeNetwork
from protodl.pipeline.demo import EXPERIMENT
from protodl.report.figures import reasons
from protodl.report.results import ResultRow, read_rows
from protodl.report.tables import results_table
from protodl.tracking.descriptions import shortened
from protodl.tracking.live import start_seed
from protodl.tracking.project import sync_project, tracked_rows
from protodl.tracking.store import tracking_uri
from protodl.tracking.sync import RowRuns
from stages import report
from tests.factories import training, usual, write_params, write_row, write_rows

MNIST = {"dataset": "mnist", "model": {"num_prototypes": 1}}
EXPERIMENTS = {
    "mnist-small-deconv": MNIST,
    "mnist-small-upconv": {**MNIST, "preset": "port"},
    "own": {"dataset": "cifar10"},
}
ACCURACIES = {
    "mnist-small-deconv": [0.99, 2 / 3],
    "mnist-small-upconv": [0.9921, 0.992],
    "own": [0.7, 1 / 3],
}
OUTPUTS = (
    "RESULTS.md",
    "results/results.json",
    "results/overview.png",
    "results/cards/own.md",
    "report/index.html",
)


@pytest.fixture
def params(project: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A project whose rows were trained in its MLflow store and measured."""
    monkeypatch.chdir(project)
    params = write_params(project, EXPERIMENTS, seeds=[0, 1])
    for row, accuracies in ACCURACIES.items():
        logs = [train(training(params, row, seed)) for seed in params.seeds]
        write_row(Path("results/rows"), list(zip(logs, accuracies, strict=True)))
    return params


def train(log: SeedLog) -> SeedLog:
    """Record a training live; gives the log with the ids of its runs."""
    with start_seed(log) as tracker:
        for epoch in log.history:
            tracker.log_epoch(epoch)
    ids = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id}
    return log.model_copy(update=ids)


def run_stage(monkeypatch: pytest.MonkeyPatch) -> int:
    arguments = ["--params", "params.yaml", "--rows", "results/rows", "--models", "models"]
    arguments += ["--markdown", "RESULTS.md", "--results", "results/results.json"]
    arguments += ["--overview", "results/overview.png", "--html", "report/index.html"]
    arguments += ["--cards", "results/cards"]
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    return report.main()


def outputs(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in OUTPUTS}


def client() -> MlflowClient:
    return MlflowClient(tracking_uri())


def num_runs(name: str = "protodl") -> int:
    experiment = client().get_experiment_by_name(name)
    return len(client().search_runs([experiment.experiment_id])) if experiment else 0


def move_to_empty_store(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated_database, project / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'other.db'}")


def test_the_report_and_its_table_in_mlflow(
    params: Params, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stage(monkeypatch) == 0
    rows = read_rows(params, project / "results/rows")
    written = json.loads((project / "results/results.json").read_text())
    assert written == [row.record() for row in rows]
    assert [row["row"] for row in written] == list(EXPERIMENTS)
    page = (project / "RESULTS.md").read_text()
    assert all(part in page for part in results_table(rows).split("\n\n"))
    assert 'src="results/rows/own/pictures/samples.png"' in page
    cards = {row: project / f"results/cards/{row}.md" for row in EXPERIMENTS}
    assert all(f"[Model card](results/cards/{row}.md)" in page for row in cards)
    own = cards["own"].read_text()
    assert own.startswith("# Model card: own\n")
    with Image.open(project / "results/overview.png") as overview:
        assert overview.size == (30, 120)  # the first rows of mnist and of cifar10

    shutil.rmtree(project / "results")  # MLflow alone is left
    assert tracked_rows(params) == rows
    first = client().get_run(rows[0].run_id)
    pictures = client().list_artifacts(rows[0].run_id, "pictures")
    assert len(pictures) == 6
    assert mlflow.artifacts.load_text(f"runs:/{rows[-1].run_id}/card.md") == own
    note = client().get_run(rows[-1].run_id).data.tags["mlflow.note.content"]
    picture = f"get-artifact?path=pictures%2Fprototypes.png&run_uuid={rows[-1].run_id}"
    assert note == shortened(f"![prototypes]({picture})\n\n{own}")
    assert first.data.metrics["published_accuracy"] == 0.9902
    experiment = client().get_experiment_by_name("protodl")
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"].endswith(f"\n\n{results_table(rows)}")


def test_a_second_report_gives_the_same_bytes_and_no_new_run(
    params: Params, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stage(monkeypatch) == 0
    before, runs = outputs(project), num_runs()
    assert runs == 9
    assert run_stage(monkeypatch) == 0
    assert (outputs(project), num_runs()) == (before, runs)
    assert sync_project(params, Path("results/rows"), Path("models")) == ([], [])


def test_an_empty_store_is_refilled_with_the_same_table(
    params: Params, project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_to_empty_store(project, migrated_database, monkeypatch)
    created, left_out = sync_project(params, Path("results/rows"), Path("models"))
    assert (len(created), left_out) == (6, [])
    rows = read_rows(params, Path("results/rows"))
    read = tracked_rows(params)
    assert read == rows
    experiment = client().get_experiment_by_name("protodl")
    assert experiment is not None
    for row in rows:  # how RESULTS.md says a run is found
        search = f"tags.trained_run_id = '{row.run_id}'"
        (found,) = client().search_runs([experiment.experiment_id], search)
        assert found.data.tags["row"] == row.row
        assert found.info.run_id != row.run_id
    artifacts = [file.path for file in client().list_artifacts(created[0])]
    assert sorted(artifacts) == ["confusion.json", "prototypes.json"]


def test_trouble_with_mlflow_leaves_the_report_as_it_is(
    params: Params,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_stage(monkeypatch) == 0
    before = outputs(project)
    for name in OUTPUTS:
        (project / name).unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'params.yaml' / 'x.db'}")
    assert run_stage(monkeypatch) == 0
    assert outputs(project) == before
    assert "warning: MLflow was not brought up to date" in capsys.readouterr().err
    assert params.experiments


def test_a_row_without_results_stops_the_report_but_not_the_others_sync(
    params: Params,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / "results/rows/own/metrics.json").unlink()
    assert run_stage(monkeypatch) == 1
    assert "rows/own/metrics.json: missing; run" in capsys.readouterr().err
    assert not (project / "RESULTS.md").exists()
    created, (reason,) = sync_project(params, Path("results/rows"), Path("models"))
    assert created == []
    assert "own" in reason
    fewer = write_params(project, {row: EXPERIMENTS[row] for row in list(EXPERIMENTS)[:2]}, [0, 1])
    assert len(tracked_rows(fewer)) == 2
    with pytest.raises(ResultsError, match="no result of row 'own'"):
        tracked_rows(params)


def test_a_missing_picture_is_named(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("results/rows/own/pictures/weights.png").unlink()
    assert run_stage(monkeypatch) == 1
    assert (
        "pictures/weights.png: missing; run `dvc repro prototypes@own`" in capsys.readouterr().err
    )
    assert not Path("RESULTS.md").exists()
    assert params.experiments


def test_of_mlflow_s_results_the_latest_of_these_parameters_counts(
    params: Params, project: Path
) -> None:
    rows, models = Path("results/rows"), Path("models")
    sync_project(params, rows, models)
    changed = write_params(project, {"own": {"dataset": "cifar10", "epochs": 7}}, [0, 1])
    logs = [train(training(changed, "own", s, fingerprint=f"x{s}")) for s in (0, 1)]
    write_row(project / "elsewhere", [(log, 0.9) for log in logs])
    sync_project(changed, project / "elsewhere", models)
    assert tracked_rows(changed)[0].mean["test_accuracy"] == 0.9
    assert tracked_rows(params) == read_rows(params, rows)
    other = write_params(project, {"own": {"dataset": "cifar10", "epochs": 8}}, [0, 1])
    with pytest.raises(ResultsError, match=r"epochs = 7, params.yaml has 8, .*; `protodl sync`"):
        tracked_rows(other)
    sample = write_params(project, EXPERIMENTS, [0, 1], source="sample")
    with pytest.raises(ResultsError, match=r"on the full data, data.source is 'sample'"):
        tracked_rows(sample)


def test_an_experiment_leaves_champions_and_description_to_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    rows, models = Path("results/rows"), Path("models")

    def measure(name: str, epochs: int, accuracy: float) -> tuple[Params, list[ResultRow]]:
        experiment = {**MNIST, "epochs": epochs}
        params = write_params(project, {"mnist-small-deconv": experiment})
        log = train(training(params, "mnist-small-deconv", 0, fingerprint=name))
        better = [
            record.model_copy(update={"validation": {"accuracy": accuracy}})
            for record in log.history
        ]
        log = log.model_copy(update={"history": better})
        write_row(rows, [(log, accuracy)])
        network = PrototypeNetwork(ModelConfig(num_prototypes=1), 1, 28, 10).eval()
        save_network(network, models / "mnist-small-deconv/seed-0.pt")
        sync_project(params, rows, models)
        return params, read_rows(params, rows)

    def shown() -> tuple[str, str]:
        experiment = client().get_experiment_by_name("protodl")
        assert experiment is not None
        champion = client().get_model_version_by_alias("protodl-mnist", "champion")
        note = experiment.tags["mlflow.note.content"]
        return str(champion.version), note.partition("\n\n")[2]  # below the links to the views

    params, table = measure("project", 2, 0.8)
    assert shown() == ("1", results_table(table))
    monkeypatch.setenv("DVC_EXP_NAME", "noisy-owl")
    variant, other = measure("variant", 3, 0.9)
    assert len(client().search_model_versions("name = 'protodl-mnist'")) == 2
    assert shown() == ("1", results_table(table))
    assert (tracked_rows(params), tracked_rows(variant)) == (table, other)
    monkeypatch.delenv("DVC_EXP_NAME")  # the experiment is applied
    sync_project(variant, rows, models)
    assert shown() == ("2", results_table(other))


def test_a_run_that_computes_nothing_fills_an_empty_store(
    project: Path,
    migrated_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    params = write_params(project, {"own": {"dataset": "cifar10"}})
    write_rows(Path("results/rows"), params, {"own": [0.5]})
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n no_scm = true\n analytics = false\n")
    (project / "dvc.yaml").write_text("stages:\n  report:\n    cmd: 'true'\n    outs: []\n")
    assert main(["run", "own"]) == 1  # a row alone, which this dvc.yaml does not know
    assert num_runs() == 0
    assert main(["run"]) == 0
    assert num_runs() == 2
    assert "1 runs created in MLflow" in capfd.readouterr().out
    assert tracked_rows(params) == [
        row.model_copy(update={"run_id": tracked_rows(params)[0].run_id})
        for row in read_rows(params, Path("results/rows"))
    ]
    move_to_empty_store(project, migrated_database, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'params.yaml' / 'x.db'}")
    assert main(["run"]) == 0
    assert "warning: MLflow was not brought up to date" in capfd.readouterr().err


def test_the_interface_starts_on_a_filled_store(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    params = write_params(project, {"own": {"dataset": "cifar10"}})
    write_rows(Path("results/rows"), params, {"own": [0.5]})
    with socket.socket() as taken:  # so that the server is not started
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = ["ui", "--port", str(taken.getsockname()[1])]
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        assert main(command) == 1
        assert num_runs(EXPERIMENT) == 0  # the demo's experiment holds the demo's runs only
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
        assert main(command) == 1
    assert num_runs() == 2
    assert "is taken" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sync"], ["table", "--from-mlflow"], ["ui"]])
def test_a_store_that_cannot_be_used_is_one_message(
    command: list[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    params = write_params(project, {"own": {"dataset": "cifar10"}})
    write_rows(Path("results/rows"), params, {"own": [0.5]})
    (project / "mlflow.db").write_text("this is not a database")
    assert main(command) == 1
    messages = capsys.readouterr().err
    trouble = f"the MLflow store sqlite:///{project}/mlflow.db cannot be used: "
    assert messages.splitlines()[-1].startswith(f"error: {trouble}")
    assert "file is not a database" in messages
    assert "Traceback" not in messages


def test_a_damaged_network_is_one_message(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("models/own/seed-1.pt")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a network")
    assert main(["sync"]) == 1
    assert f"error: {path}: cannot be read" in capsys.readouterr().err
    assert params.experiments


def test_a_row_that_was_never_reported_in_full_is_named(params: Params) -> None:
    row = params.experiments["own"]
    log = training(params, "own", 0)
    RowRuns.of([log]).log_result({"test_accuracy": 0.5}, {})
    only = Params(seeds=[0], experiments={"own": row})
    with pytest.raises(ResultsError, match=r"lacks 'validation_accuracy'; `protodl sync`"):
        tracked_rows(only)


def test_the_networks_on_this_machine_are_served(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    params = write_params(project, {"mnist-small-deconv": MNIST}, seeds=[0, 1])
    write_rows(Path("results/rows"), params, {"mnist-small-deconv": [0.9, 0.8]})
    network = PrototypeNetwork(ModelConfig(num_prototypes=1), 1, 28, 10).eval()
    save_network(network, Path("models/mnist-small-deconv/seed-1.pt"))
    sync_project(params, Path("results/rows"), Path("models"))
    champion = client().get_model_version_by_alias("protodl-mnist", "champion")
    assert (str(champion.version), champion.tags["seed"]) == ("1", "1")
    loaded = mlflow.pyfunc.load_model("models:/protodl-mnist@champion")
    images = np.random.default_rng(0).random((3, 1, 28, 28), dtype=np.float32)
    expected = Classifier(network)(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(loaded.predict(images), expected, rtol=1e-5, atol=1e-6)


def aliases(name: str) -> dict[str, tuple[str, str]]:
    """Row and seed that each alias of a registered model stands for."""
    versions = client().search_model_versions(f"name = '{name}'")
    found = {str(each.version): (each.tags["row"], each.tags["seed"]) for each in versions}
    return {
        alias: found[str(version)]
        for alias, version in client().get_registered_model(name).aliases.items()
    }


def test_a_row_explains_by_its_best_seed_and_its_card_says_how_to_ask(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    rows, models = Path("results/rows"), Path("models")
    accuracies = {"mnist-small-deconv": [0.9, 0.8], "mnist-small-upconv": [0.9, 0.8]}
    params = write_params(project, dict.fromkeys(accuracies, MNIST), seeds=[0, 1])
    write_rows(rows, params, accuracies)
    best, other = accuracies
    network = PrototypeNetwork(ModelConfig(num_prototypes=1), 1, 28, 10).eval()
    codes = network.encode(torch.rand(5, 1, 28, 28)).detach()
    case_base = CaseBase(codes, torch.arange(5), usual(torch.ones(1), 0.5, 0.5))

    references = models / "references"
    for row in accuracies:
        save_network(network, models / row / "seed-1.pt")
    save_case_base(case_base, references / other / "seed-1.pt")
    sync_project(params, rows, models)
    expected = {best: (best, "1"), other: (other, "1"), "champion": (best, "1")}
    assert aliases("protodl-mnist") == expected
    assert aliases("protodl-mnist-explained") == {other: (other, "1")}  # and no other's champion
    compared = references / best / "seed-1.pt"
    compared.parent.mkdir()
    compared.write_bytes(b"not a case base")
    with pytest.raises(CheckpointError, match=f"{compared}: cannot be read"):
        sync_project(params, rows, models)
    save_case_base(case_base, compared)
    for _ in range(2):
        assert sync_project(params, rows, models) == ([], [])
        assert aliases("protodl-mnist") == aliases("protodl-mnist-explained") == expected
        assert len(client().search_model_versions()) == 4

    version = client().get_model_version_by_alias("protodl-mnist-explained", best)
    assert version.run_id
    parent = client().get_run(version.run_id).data.tags["mlflow.parentRunId"]
    card = mlflow.artifacts.load_text(f"runs:/{parent}/card.md")
    assert version.description == shortened(card)
    commands = re.findall(r"mlflow models serve .* -m (\S+)", card)
    assert commands == [f"models:/protodl-mnist{end}@{best}" for end in ("", "-explained")]
    images = np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32)
    scores, (answer,) = (mlflow.pyfunc.load_model(each).predict(images) for each in commands)
    assert answer["prediction"]["probability"] == pytest.approx(scores.max(), abs=1e-5)


def test_stacked_reasons_keep_sizes_and_colours(tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 5), "blue").save(tmp_path / "b.png")
    for name in ("one.png", "two.png"):
        reasons.stack_reasons([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / name)
    with Image.open(tmp_path / "one.png") as stacked:
        assert stacked.size == (30, 15)
        places = [(0, 0), (29, 9), (0, 10), (19, 14), (20, 10)]
        colours = [stacked.convert("RGB").getpixel(place) for place in places]
    red, blue, white = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    assert colours == [red, red, blue, blue, white]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
