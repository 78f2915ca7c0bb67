"""The team's store as deploy/compose.yaml starts it: several clients, faults, a backup."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow.pyfunc
import numpy as np
import pytest
from mlflow.entities import Run

from protodl.tracking.champions import set_champions
from protodl.tracking.store import open_current
from protodl.tracking.sync import RowRuns
from protodl.tracking.trouble import TrackingError
from tests.chromium import BINARY, chromium, shown_text
from tests.mlflow_fixtures import empty_project
from tests.team.parts import SECRETS, Parts, missing, on_loopback, signed
from tests.tracking.records import all_runs, client, seed_log, served
from tests.tracking.trainings import LOG, Training, end_trainings, synced

ROOT = Path(__file__).parents[2]
SERVICES = ("db", "s3", "bucket", "mlflow")
LACKING = missing("db", "s3", "mlflow")
pytestmark = [
    # Libraries leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"this machine lacks {', '.join(LACKING)}"),
]
PASSWORDS = {"anna": "anna's: 1/2@#%41", "ben": "the one of ben"}
WAIT = "60"  # seconds for an answer; processors may be busy


@pytest.fixture(name="parts", scope="module")
def _parts() -> Iterator[Parts]:
    with on_loopback(*SERVICES) as parts:
        for name, password in PASSWORDS.items():
            parts.add_user(name, password)
        yield parts


@pytest.fixture(autouse=True)
def _leave_nothing_running() -> Iterator[None]:
    yield
    end_trainings()


def access(parts: Parts, name: str) -> dict[str, str]:
    """The variables that a colleague sets."""
    return {
        "MLFLOW_TRACKING_URI": parts.address("mlflow"),
        "MLFLOW_TRACKING_USERNAME": name,
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS[name],
        "MLFLOW_HTTP_REQUEST_TIMEOUT": WAIT,
    }


class Machine:
    """A colleague's machine with this project's results, of which nobody else's locks are seen."""

    def __init__(self, parts: Parts, name: str, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | access(parts, name) | {"TMPDIR": str(folder / "tmp")}
        self.environment |= {"DVC_ROOT": str(folder), "MLFLOW_EXPERIMENT_NAME": "protodl"}
        (folder / "tmp").mkdir(parents=True)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "results" / "rows", folder / "results" / "rows")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "protodl.cli", *arguments],
            cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str) -> list[str]:
        return ended(self.start(*arguments))


def ended(process: "subprocess.Popen[str]") -> list[str]:
    """The lines of a command that came to its end."""
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return output.splitlines()


@pytest.fixture(name="machines", scope="module")
def _machines(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> list[Machine]:
    """Two machines that have filled the store with this project's results at the same time."""
    machines = [Machine(parts, name, tmp_path_factory.mktemp(name) / "p") for name in PASSWORDS]
    killed = machines[0].start("sync")
    assert killed.stdout is not None
    while "run 2 of " not in (line := killed.stdout.readline()):
        assert line, killed.communicate()[1]
    killed.kill()
    killed.communicate()
    start = time.monotonic()
    lines = [ended(process) for process in [each.start("sync") for each in machines]]
    print(f"two clients: {time.monotonic() - start:.0f} s, {[each[-1] for each in lines]}")
    for each in lines:
        assert sum(line.startswith("run ") for line in each) == 21
    return machines


@pytest.fixture(name="anna", autouse=True)
def _anna(
    parts: Parts, tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is a client, too, with no files of its own."""
    empty_project(tmp_path, migrated_database, monkeypatch)
    for name, value in access(parts, "anna").items():
        monkeypatch.setenv(name, value)


def test_two_clients_and_a_kill_make_one_run_of_each_seed_and_row(machines: list[Machine]) -> None:
    runs = all_runs()
    kinds = Counter(run.data.tags["kind"] for run in runs)
    assert (kinds.pop("seed"), kinds.pop("row")) == (21, 7)
    assert set(kinds) <= {"given up"}  # of one who may not delete in another's experiment
    assert len({run.data.tags.get("fingerprint") for run in _of("seed", runs)}) == 21
    assert {run.info.status for run in [*_of("seed", runs), *_of("row", runs)]} == {"FINISHED"}
    for run in _of("seed", runs)[::7]:
        for name in ("learning_rate", "test_accuracy"):
            steps = [point.step for point in client().get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps))
    before = machines[0].run("table", "--from-mlflow")
    start = time.monotonic()
    assert machines[1].run("sync")[-1] == "0 runs created in MLflow"
    print(f"a second time: {time.monotonic() - start:.0f} s")
    assert machines[1].run("table", "--from-mlflow") == before == machines[1].run("table")
    assert len(all_runs()) == len(runs)


def _of(kind: str, runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.data.tags["kind"] == kind]


@pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")
def test_the_printed_link_shows_the_table_to_who_has_an_account(
    machines: list[Machine], tmp_path: Path
) -> None:
    link = machines[0].run("ui")[-2]
    assert link.startswith("http://127.0.0.1:")
    with pytest.raises(HTTPError) as refused:
        urlopen(link, timeout=60)
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")  # a browser asks
    with chromium(tmp_path / "profile") as page:
        page.call("Network.setExtraHTTPHeaders", headers=signed("ben", PASSWORDS["ben"]))
        shown_text(page, link, r"(?s)(?=.*99\.33 ± 0\.06 %).*\b7\s+matching runs")


MODELS = """
from protodl.tracking.sync import RowRuns
from tests.tracking.records import seed_log, served
RowRuns.of([seed_log()]).add_models(lambda _, explains: None if explains else served())
"""


def test_two_clients_make_one_model_which_others_load(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "models")
    processes = []
    for name in PASSWORDS:
        (tmp_path / name).mkdir()
        own = {**access(parts, name), "TMPDIR": str(tmp_path / name)}
        command = [sys.executable, "-c", MODELS]
        processes.append(subprocess.Popen(
            command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ))  # fmt: skip
    assert [ended(each) for each in processes] == [[], []]
    runs = RowRuns.of([seed_log()])
    (version,) = client().search_model_versions("name = 'models-mnist'")
    assert version.run_id == runs.seeds[0]
    (logged,) = client().search_logged_models([runs.store.experiment_id])
    assert logged.status == "READY"
    assert set_champions([runs]) == {"mnist": "a"}
    assert any(key.endswith("program.pt2") for key in parts.stored())
    for name, value in access(parts, "ben").items():
        monkeypatch.setenv(name, value)
    model = mlflow.pyfunc.load_model("models:/models-mnist@champion")
    scores = np.asarray(model.predict(served().example))
    assert scores.shape == (2, 10)


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        empty_project(tmp_path_factory.mktemp("undisturbed"), migrated_database, patch)
        for name, value in {**access(parts, "anna"), "MLFLOW_EXPERIMENT_NAME": "well"}.items():
            patch.setenv(name, value)
        return synced(train())


def train(midway: Any = lambda: None) -> Any:
    """Train in another process, and do something in the middle; gives the log."""
    training = Training()
    training.reach("middle")
    midway()
    training.go_on()
    return training.finish(within=60)


@pytest.mark.parametrize("service", ["db", "s3", "mlflow"])
def test_a_part_that_is_killed_in_a_training_loses_nothing(
    service: str,
    parts: Parts,
    undisturbed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"killed {service}")
    log = train(lambda: parts.kill(service))
    parts.start(service)
    assert synced(log) == undisturbed


def test_who_may_do_what(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = client().create_experiment("of anna")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["ben"])
    client().create_run(experiment)
    with pytest.raises(Exception, match="403"):
        client().delete_experiment(experiment)
    with pytest.raises(HTTPError, match="403"):
        parts.ask("/api/2.0/mlflow/users/create", "ben", PASSWORDS["ben"], {"username": "eve"})
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of nobody")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_USERNAME"):
        open_current()


def test_a_backup_brings_everything_back(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/team.md does it: a dump of the database, and a copy of the other volume."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "kept")
    before = synced(train())
    dump = tmp_path / "db.dump"
    dump.write_bytes(parts.run_client("pg_dump", "-Fc", "mlflow"))
    for service in ("mlflow", "s3", "db"):
        parts.kill(service)
    shutil.copytree(parts.folder / "s3", tmp_path / "s3")
    for name in ("s3", "db"):
        shutil.rmtree(parts.folder / name)
    shutil.copytree(tmp_path / "s3", parts.folder / "s3")
    parts.start("db")
    parts.run_client("pg_restore", "-d", "mlflow", given=dump.read_bytes())
    for service in SERVICES[1:]:
        parts.start(service)
    assert synced(LOG.model_copy(update={"run_id": all_runs()[0].info.run_id})) == before
    (model,) = client().search_model_versions("name = 'kept-mnist'")
    assert mlflow.pyfunc.load_model(f"models:/kept-mnist/{model.version}")
    assert parts.ask("/api/2.0/mlflow/users/current", "admin", SECRETS["ADMIN_PASSWORD"])
