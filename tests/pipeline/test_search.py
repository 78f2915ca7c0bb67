"""A search of a tiny row: Optuna's own journal and sampler, real trainings, a real MLflow store."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.entities import Run

from protodl.core.config import ConfigError, load_params
from protodl.core.limits import available_cpus
from protodl.core.search import FOLDER, SearchRecord, load_search
from protodl.core.training_log import EpochRecord, SeedLog
from protodl.data.datasets import Split, save_split
from protodl.pipeline.dispatch import FAILURES, End, Listener
from protodl.pipeline.journal import SearchError, alone
from protodl.pipeline.search import search_recipes
from protodl.pipeline.seeds import Seed
from protodl.report.search_page import conclusion, search_page
from protodl.tracking.search import EXPERIMENT, tracked_search
from protodl.tracking.store import tracking_uri
from protodl.training.away import NO_RUN
from protodl.training.row import Row, seed_log
from protodl.training.trainer import Hooks, TrainingError
from tests.pipeline.project import Project

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'protodl[search]'")

ROOT = Path(__file__).parents[2]
PARAMS = """
seeds: [0]
training: {validation_size: 60, threads: 1, device: cpu}
experiments:
  a-row:
    dataset: mnist
    model: {num_prototypes: 10}
    epochs: 3
    batch_size: 20
    optimizer: {lr: 1e-3}
"""
SEARCH = """
row: a-row
trials: 5
epochs: 2
fresh_seeds: [10, 11]
pruning: {trials: 1, epochs: 1}
space:
  optimizer.lr: {low: 1e-4, high: 1e-1, log: true}
  batch_size: {low: 20, high: 60, step: 20}
  model.head_bias: {choices: [true, false]}
"""
JOURNAL = Path(".protodl") / "search" / "a-search.log"
OPENED: list[str] = []  # files, by the search of `whole`


def write_project(folder: Path, search: str = SEARCH) -> Path:
    """A folder with params.yaml, a search, and images that are learnt quickly; no test.pt."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 10
    images = torch.randint(0, 160, (160, 1, 28, 28), dtype=torch.uint8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label : 2 * label + 3] += 60
    (folder / "data" / "mnist").mkdir(parents=True)
    save_split(Split(images, labels), folder / "data" / "mnist" / "train.pt")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / FOLDER).mkdir(parents=True)
    (folder / FOLDER / "a-search.yaml").write_text(search)
    return folder


class InProcess:
    """Trains as a machine or a cluster does, but one after the other, in this process."""

    def __init__(self) -> None:
        self.epochs: list[str] = []  # fingerprints, of each epoch that was trained

    def __call__(self, seeds: Iterable[Seed], listener: Listener) -> None:
        for seed in seeds:
            listener.on_end(seed, *self._train(seed, listener))

    def _train(self, seed: Seed, listener: Listener) -> tuple[End, str]:
        request = seed.request

        def on_epoch(record: EpochRecord, _network: object) -> None:
            self.epochs.append(request.fingerprint)
            if not listener.on_epoch(seed, record):
                raise StopIteration

        row = Row.load(request.row, request.params, seed.data, seed.teacher, request.sources)
        try:
            result = row.fit(request.seed, seed.folder, Hooks(on_epoch=on_epoch))
        except StopIteration:
            return End.STOPPED, ""
        except TrainingError as error:
            return End.FAILED, str(error)
        log = seed_log(row.facts(request.seed, {}), result, 0, NO_RUN)
        log.write(seed.folder / "log.json")
        return End.FINISHED, ""


def run(folder: Path, train: Any, **options: Any) -> SearchRecord:
    """Search as the command does, without DVC."""
    params = load_params(folder / "params.yaml")
    search = load_search(folder / FOLDER / "a-search.yaml", params)
    with alone(folder / JOURNAL, "a-search"):
        return search_recipes(folder, "a-search", params, search, train, **options)


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchRecord]:
    """A search that nothing has disturbed."""
    folder = write_project(tmp_path_factory.mktemp("whole"))
    opened: list[str] = []
    sys.addaudithook(
        lambda event, arguments: (
            opened.append(str(arguments[0])) if event == "open" and not OPENED else None
        )
    )
    record = run(folder, InProcess())
    OPENED.extend(opened)
    return folder, record


def essence(record: SearchRecord) -> list[Any]:
    """What two searches of one seed have in common: all but times."""
    return [
        (
            trial.number,
            trial.state,
            trial.values,
            trial.feasible,
            trial.outcome.accuracy,
            [(epoch.epoch, epoch.validation) for epoch in trial.outcome.history],
        )
        for trial in record.trials
    ]


def test_a_search_ends_with_the_best_trial_beside_the_default(
    whole: tuple[Path, SearchRecord],
) -> None:
    folder, record = whole
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3, 4]
    assert record.trial(0).values == record.default  # it begins with the row as it is
    lengths = {trial.state: len(trial.outcome.history) for trial in record.trials}
    assert lengths == {"complete": 2, "pruned": 1}
    best = record.ranked()[0]
    assert best.number == record.best and best.values != record.default
    assert all(not trial.feasible for trial in record.trials if trial.state == "pruned")
    for side, values in {"winner": best.values, "default": record.default}.items():
        found = record.comparison[side]  # type: ignore[index]
        assert [each.seed for each in found] == [10, 11]
        logs = [log for log in logs_of(folder) if log.seed == 10 and log.num_epochs == 3]
        assert any(log.parameters["optimizer"]["lr"] == values["optimizer.lr"] for log in logs)
    page = search_page(record, "protodl search a-search")
    assert conclusion(record) in page
    assert "spread" in conclusion(record)
    assert f"{lengths_of(record)['pruned']} pruned, 0 failed" in page
    (folder / "pasted.yaml").write_text(f"seeds: [0]\n{record.block}")
    row = load_params(folder / "pasted.yaml").experiment("a-row").model_dump()
    assert row == {**best.parameters, "epochs": 3}
    again = InProcess()
    assert run(folder, again) == record  # which trains nothing
    assert again.epochs == []


def logs_of(folder: Path) -> list[SeedLog]:
    return [SeedLog.read(path) for path in folder.glob(".protodl/checkpoints/*/log.json")]


def lengths_of(record: SearchRecord) -> Counter[str]:
    return Counter(trial.state for trial in record.trials)


@pytest.mark.usefixtures("whole")
def test_the_test_split_is_not_read() -> None:
    opened = {Path(name).name for name in OPENED}  # by the search of the fixture
    assert {"train.pt", "network.pt", "a-search.log"} <= opened
    assert "test.pt" not in opened


@pytest.mark.faults
def test_an_interrupted_search_goes_on_to_the_same_trials(
    whole: tuple[Path, SearchRecord], tmp_path: Path
) -> None:
    folder = write_project(tmp_path / "project")
    cut = InProcess()

    def interrupted(seeds: Iterable[Seed], listener: Listener) -> None:
        def on_epoch(seed: Seed, record: EpochRecord) -> bool:
            if len(cut.epochs) == 4:  # the first one of the third trial
                raise KeyboardInterrupt
            return listener.on_epoch(seed, record)

        cut(seeds, Listener(on_epoch, listener.on_end))

    with pytest.raises(KeyboardInterrupt):
        run(folder, interrupted)
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 7, "wor')  # as a disk that was full leaves it
    (folder / f"{JOURNAL}.lock").symlink_to(JOURNAL.name)  # Optuna's, of a killed process
    rest = InProcess()
    assert essence(run(folder, rest)) == essence(whole[1])
    assert len(cut.epochs) == 4
    assert rest.epochs[0] == cut.epochs[-1]  # its epoch 1 is shown again, and epoch 2 trained
    assert sum(f == cut.epochs[-1] for f in rest.epochs) == 2


def test_a_winner_keeps_the_constraint(whole: tuple[Path, SearchRecord], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    (folder / FOLDER / "a-search.yaml").write_text(f"decode_agreement: 0.9\n{SEARCH}")
    train = InProcess()
    record = run(folder, train)
    assert train.epochs == []  # the same trainings, judged otherwise
    assert lengths_of(record) == lengths_of(whole[1])
    assert record.ranked() == [] and record.best is None
    assert "that keeps the constraint" in search_page(record, "")


def test_more_trials_are_added_to_those_that_are_over(
    whole: tuple[Path, SearchRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    record = run(folder, InProcess(), number=6)
    assert essence(record)[:5] == essence(whole[1])
    assert len(record.trials) == 6


def test_trials_that_fail_are_shown_and_three_that_fail_alike_end_the_search(
    tmp_path: Path,
) -> None:
    folder = write_project(tmp_path)
    asked = []

    def diverges(seeds: Iterable[Seed], listener: Listener) -> None:
        for seed in seeds:
            asked.append(seed.request.fingerprint)
            listener.on_end(seed, End.FAILED, "seed 0 in epoch 1 (loss not finite)")

    record = run(folder, diverges)
    assert {trial.state for trial in record.trials} == {"failed"} and len(record.trials) == 5
    assert "trial 4 failed: seed 0 in epoch 1 (loss not finite)" in search_page(record, "")

    def full(seeds: Iterable[Seed], listener: Listener) -> None:
        for seed in seeds:
            seed.failures = FAILURES
            asked.append(seed.request.fingerprint)
            listener.on_end(seed, End.FAILED, "No space left on device")

    with pytest.raises(SearchError, match="the last one: No space left on device; mend that"):
        run(folder, full, number=20)
    assert len(asked) == 5 + 3
    with pytest.raises(SearchError, match="No space left"):
        run(folder, full, number=20)
    assert asked[8] == asked[7]  # it goes on with the trial that it stopped at


def test_trials_of_the_same_values_are_trained_once(tmp_path: Path) -> None:
    search = SEARCH.partition("space:")[0].replace("trials: 5", "trials: 3")
    folder = write_project(
        tmp_path, f"{search}space: {{model.head_bias: {{choices: [true, false]}}}}"
    )
    train = InProcess()
    record = run(folder, lambda seeds, listener: train(list(seeds), listener))
    assert lengths_of(record)["failed"] == 1
    assert "its values are those of trial" in search_page(record, "")
    assert len(set(train.epochs)) == 2 + 2 * (record.best != 0)


BAD = {
    ("lr: {low", "rate: {low"): "space.optimizer.rate.low: optimizer.rate = 0.0001: unknown key",
    ("1e-4, high: 1e-1", "1e-1, high: 1e-4"): "space.optimizer.lr: low = 0.1 is not below high",
    ("low: 1e-4", "low: 0"): "space.optimizer.lr: log needs a low above 0",
    ("low: 1e-4", "low: -1"): "space.optimizer.lr: log needs a low above 0",
    ("high: 1e-1, log: true", "high: 1e40"): "space.optimizer.lr.high: optimizer.lr = 1e+40",
    ("step: 20", "step: 30"): "space.batch_size: step = 30: low to high is no whole number",
    ("low: 20, high: 60, step: 20", "low: 0, high: 8"): "space.batch_size.low: batch_size = 0",
    ("low: 20, high: 60, step: 20", "low: 2.5, high: 8"): "batch_size = 2.5: input should be",
    ("[true, false]", "[true, 3]"): "space.model.head_bias.choices.1: model.head_bias = 3",
    ("[true, false]", "[true, true]"): "each may stand once",
    ("{choices: [true, false]}", "{choices: [true, false], log: true}"): "choices stand alone",
    ("model.head_bias", "dataset"): "space.dataset: cannot be searched; name another `row`",
    ("row: a-row", "row: a-rov"): "row = 'a-rov': no row; did you mean 'a-row'?; rows: a-row",
    ("trials: 5", "trails: 5"): "trails = 5: unknown key; did you mean 'trials'?",
    ("[10, 11]", "[0, 11]"): "fresh_seeds: 0 stands among seeds",
    ("epochs: 2\n", ""): "epochs: is missing; add it",
    ("batch_size: {low: 20, high: 60", "augment.shift: {low: 0, high: 80"): "28 pixels wide",
    ("model.head_bias: {choices: [true, false]}", "model.distance: {choices: [none, euclidean]}"): (
        "space.model.distance.choices.0: without prototypes there is no decode_agreement"
    ),
}


@pytest.mark.parametrize(("change", "named"), BAD.items(), ids=lambda value: str(value)[:40])
def test_a_mistake_in_a_search_is_named_before_any_work(
    change: tuple[str, str], named: str, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    path = tmp_path / "a-search.yaml"
    text = f"{SEARCH.strip()}\ndecode_agreement: 0.5\n".replace(*change)
    assert change[0] in SEARCH
    path.write_text(text)
    with pytest.raises(ConfigError) as found:
        load_search(path, load_params(tmp_path / "params.yaml"))
    assert named in str(found.value)
    assert str(path) in str(found.value)


def test_a_search_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    with pytest.raises(ConfigError, match="no such search; did you mean 'a-search'"):
        load_search(folder / FOLDER / "a-serch.yaml", load_params(folder / "params.yaml"))


def test_one_process_is_at_a_search(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "a.log", "a"),
        pytest.raises(SearchError, match="search a: another process is at it already"),
        alone(tmp_path / "a.log", "a"),
    ):
        pass


def test_without_optuna_its_installation_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SearchError, match=r"pip install 'protodl\[search\]'"):
        run(write_project(tmp_path), InProcess())


@pytest.mark.faults
def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    (folder / JOURNAL).parent.mkdir(parents=True)
    (folder / JOURNAL).write_text("nothing that Optuna wrote\n" * 2)
    with pytest.raises(SearchError, match=r"a-search\.log: cannot be read .* delete it and run"):
        run(folder, InProcess())


def runs_of(kind: str) -> list[Run]:
    client = mlflow.MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def test_mlflow_shows_a_search_and_its_trials(
    whole: tuple[Path, SearchRecord], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    record = whole[1]
    begun = {"trials": record.trials[:2], "ended": False, "comparison": {}}
    with tracked_search() as changed:
        changed(record.model_copy(update=begun))
    (parent,) = runs_of("search")
    assert parent.info.status == "KILLED"  # the process ended before the search
    with tracked_search() as changed:
        changed(record)
        changed(record)
    (parent,) = runs_of("search")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials_pruned"] == lengths_of(record)["pruned"]
    assert conclusion(record) in parent.data.tags["mlflow.note.content"]
    trials = {run.data.tags["trial"]: run for run in runs_of("trial")}
    assert len(trials) == len(runs_of("trial")) == 5
    status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    client = mlflow.MlflowClient(tracking_uri())
    for trial in record.trials:
        run = trials[str(trial.number)]
        assert run.info.status == status[trial.state]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["optimizer.lr"] == str(trial.values["optimizer.lr"])
        history = client.get_metric_history(run.info.run_id, "validation/accuracy")
        assert len(history) == len(trial.outcome.history)
    assert project.is_dir()


def test_a_search_does_not_wait_for_mlflow(
    whole: tuple[Path, SearchRecord],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with tracked_search() as changed:
        changed(whole[1])
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert "the search goes on, and the same command adds what is missing" in said
    assert project.is_dir()


DRIVER = """
from pathlib import Path
from protodl.pipeline.local import train_seeds_here
from tests.pipeline.test_search import run
run(Path(), lambda seeds, listener: train_seeds_here(seeds, [{}], listener))
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_search_whose_processes_were_killed_goes_on_to_the_same_trials(
    whole: tuple[Path, SearchRecord], tmp_path: Path
) -> None:
    folder = write_project(tmp_path / "project")
    store = folder / ".protodl" / "checkpoints"
    command, environment = [sys.executable, "-c", DRIVER], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as process:
        while len(list(store.glob("*/training.pt"))) < 2:  # of a pruned trial and of the next one
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    rest = InProcess()
    assert essence(run(folder, rest)) == essence(whole[1])
    assert rest.epochs


@pytest.mark.slow
def test_a_search_on_a_cluster_makes_the_same_trials(
    whole: tuple[Path, SearchRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
    from protodl.pipeline.dispatch import train_seeds

    folder = write_project(tmp_path / "project")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PROTODL_THREADS", str(available_cpus()))  # one at a time, as the other
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        record = run(folder, lambda seeds, listener: train_seeds(seeds, "auto", listener, {}))
    assert essence(record) == essence(whole[1])


# In every process: whoever opens the test split leaves a line, DVC and its download stage excepted.
SITE = """
import os, sys
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("test.pt"):
        command = " ".join(sys.orig_argv)
        if "quiet_dvc" not in command and "stages.download" not in command:
            raise PermissionError(f"{arguments[0]} is not for {command}")
sys.addaudithook(hook)
"""


@pytest.mark.slow
def test_the_command_searches_with_real_processes_and_without_the_test_split(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.create(tmp_path / "project")
    folder = project.folder
    shutil.copy(migrated_database, folder / "mlflow.db")
    (folder / FOLDER).mkdir(parents=True)
    text = SEARCH.replace("a-row", "grey").replace(
        "low: 20, high: 60, step: 20", "low: 60, high: 120"
    )
    (folder / FOLDER / "grey.yaml").write_text(text.replace("trials: 5", "trials: 3"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = project.run("protodl.cli", "search", "grey", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "data" / "mnist" / "test.pt").exists()
    page = (folder / FOLDER / "RESULT.md").read_text()
    assert page in done.stdout
    assert "`protodl search grey -j 2`" in page
    monkeypatch.setenv("DVC_ROOT", str(folder))
    assert len(runs_of("trial")) == 3
    again = project.run("protodl.cli", "search", "grey", "-j", "2")
    assert "3 of 3 trials are over already" in again.stdout
    assert (folder / FOLDER / "RESULT.md").read_text() == page
