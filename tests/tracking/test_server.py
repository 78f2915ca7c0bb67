"""Trainings against a real server that is slow, silent, old, killed, stopped or started again."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from mlflow import MlflowClient

from protodl.core.config import load_params
from protodl.core.limits import available_cpus
from protodl.data.datasets import to_unit_interval
from protodl.data.download import download
from protodl.tracking import store
from protodl.tracking.live import Tracker, start_seed
from protodl.tracking.progress import watch
from protodl.tracking.store import open_current
from protodl.tracking.sync import RowRuns
from protodl.tracking.trouble import TrackingError
from protodl.training.prototypes import build_network
from protodl.training.row import Row
from protodl.training.trainer import Hooks, Trainer
from tests.tracking.records import all_runs, contents, served
from tests.tracking.relay import Relay, relay
from tests.tracking.trainings import BUSY, EPOCHS, LOG, STOPPING, Training, end_trainings, synced

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("project")]


class Server:
    """An `mlflow server` of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *store, *self.options],
            cwd=self.folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        for _ in range(1200):
            assert self.process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("the server does not start")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()


@contextmanager
def serving(folder: Path, database: Path, *options: str) -> Iterator[Server]:
    shutil.copy(database, folder / "mlflow.db")
    server = Server(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, migrated_database, "--artifacts-destination", str(folder)) as server:
        yield server


@pytest.fixture(name="way")
def _way(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The way to the server, which can be disturbed."""
    store._open_store.cache_clear()
    with relay("well", server.port) as way:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", way.address)
        yield way


@pytest.fixture(autouse=True)
def _leave_nothing_running() -> Iterator[None]:
    yield
    end_trainings()


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch, relay("well", server.port) as way:
        patch.setenv("MLFLOW_TRACKING_URI", way.address)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "undisturbed")
        patch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("undisturbed")))
        training = Training()
        training.reach("middle")
        training.go_on()
        log = training.finish()
        held = [contents(log.run_id), contents(log.parent_run_id)]
        if training.warnings:  # where the machine was too busy to record everything in time
            assert BUSY in training.warnings[0]
            return synced(log)
        assert synced(log) == held
        return held


def _mode(mode: str) -> Callable[[Server, Relay], None]:
    def change(_: Server, way: Relay) -> None:
        way.mode = mode

    return change


def _kill(server: Server, _: Relay) -> None:
    server.kill()


def _restart(server: Server, _: Relay) -> None:
    server.kill()
    server.start()


def _stop(server: Server, _: Relay) -> None:
    server.send(signal.SIGSTOP)


def _continue(server: Server, _: Relay) -> None:
    server.send(signal.SIGCONT)


def _start(server: Server, _: Relay) -> None:
    server.start()


def _nothing(_: Server, __: Relay) -> None:
    pass


Step = Callable[[Server, Relay], None]
FAULTS: dict[str, tuple[Step, Step, Step]] = {  # before the training, in its middle, and after it
    "refused": (_kill, _nothing, _start),
    "silent": (_mode("silent"), _nothing, _mode("well")),
    "silent from the middle on": (_nothing, _mode("silent"), _mode("well")),
    "slow": (_mode("slow"), _nothing, _mode("well")),
    "errors": (_nothing, _mode("error 500"), _mode("well")),
    "unauthorized": (_nothing, _mode("error 401"), _mode("well")),
    "hung up": (_nothing, _mode("hang up"), _mode("well")),
    "killed": (_nothing, _kill, _start),
    "killed and restarted": (_nothing, _restart, _nothing),
    "stopped": (_nothing, _stop, _continue),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_is_as_fast_and_sync_makes_it_good(
    fault: str,
    server: Server,
    undisturbed: list[dict[str, Any]],
    way: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"tried {fault}")
    before, midway, after = FAULTS[fault]
    before(server, way)
    training = Training()
    training.reach("middle")
    midway(server, way)
    training.go_on()
    log = training.finish()
    after(server, way)
    assert (
        len(training.warnings) <= (fault == "killed and restarted") or len(training.warnings) == 1
    )
    assert "hunter2" not in "".join(training.warnings)
    assert synced(log) == undisturbed


@pytest.mark.parametrize("mode", ["well", "silent", "slow"])
@pytest.mark.parametrize("place", ["start", "middle", "done"])
def test_a_training_ends_at_once_when_it_is_to(
    mode: str, place: str, way: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"ended {mode} {place}")
    way.mode = mode
    training = Training()
    training.reach("start")
    if place != "start":
        training.reach("middle")
    if place == "done":
        training.go_on()
        training.reach("done")
    start = time.monotonic()
    training.process.terminate()
    _, errors = training.process.communicate()
    assert time.monotonic() - start < STOPPING
    assert training.process.returncode in (-signal.SIGTERM, 0), errors


LACKING = {"old": "older than MLflow 3.0: models are left out", "no files": "does not take files"}


@pytest.mark.parametrize("mode", LACKING)
def test_what_a_server_cannot_take_is_left_out_with_one_line(
    mode: str,
    undisturbed: list[dict[str, Any]],
    way: Relay,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"tried {mode}")
    way.mode = mode
    training = Training()
    training.reach("middle")
    training.go_on()
    log = training.finish()
    (line,) = training.warnings
    assert LACKING[mode] in line
    lacks: dict[str, Any] = {"models": []} if mode == "old" else {"models": [], "pictures": []}
    seed, row = synced(log)
    tags = {"mlflow.loggedImages"} if mode == "no files" else set()
    expected = {**undisturbed[0], **lacks}
    expected["tags"] = {k: v for k, v in expected["tags"].items() if k not in tags}
    assert seed == expected
    assert row == undisturbed[1]
    way.mode = "well"
    store._open_store.cache_clear()
    assert synced(log) == undisturbed
    assert {path.name for path in project.iterdir()} <= {".protodl", "mlflow.db"}


def test_files_do_not_land_in_a_folder_that_only_the_server_has(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    root = folder / "artifacts"
    options = ("--no-serve-artifacts", "--default-artifact-root", str(root))
    with serving(folder, migrated_database, *options) as server:
        shutil.rmtree(root, ignore_errors=True)  # as on a client elsewhere
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
        training = Training()
        training.reach("middle")
        training.go_on()
        log = training.finish()
        (line,) = training.warnings
        assert LACKING["no files"] in line
        seed, row = synced(log)
        assert (seed["status"], row["status"]) == ("FINISHED", "FINISHED")
        assert len(seed["history"]["train/loss"]) == EPOCHS
    assert not root.exists()


def test_a_refused_host_name_is_told_with_the_variable_that_allows_it(way: Relay) -> None:
    way.mode = "other host"
    with pytest.raises(TrackingError, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        open_current()


def test_no_secret_of_an_address_is_stored(
    server: Server, way: Relay, undisturbed: list[dict[str, Any]]
) -> None:
    assert "hunter2" in way.address
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > len(undisturbed)
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


PARAMS = """
seeds: [0]
data: {source: sample}
training: {validation_size: 100, threads: 1, pictures_every: 1}
datasets: {mnist: {torchvision: MNIST}}
recipes: {mnist: {}}
experiments: {a: {dataset: mnist, epochs: 6, model: {num_prototypes: 15}}}
"""
ROUNDS = 3  # of trainings with and without tracking, in turn


@pytest.fixture(name="row", scope="module")
def _row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """A row to be trained on the sample of real images."""
    folder = tmp_path_factory.mktemp("row")
    (folder / "params.yaml").write_text(PARAMS)
    params = load_params(folder / "params.yaml")
    config = params.dataset("mnist")
    raw, sample = folder / "raw", ROOT / "data" / "sample"
    download("mnist", folder, config=config, folder=None, source="sample", raw=raw, sample=sample)
    return Row.load("a", params, folder / "train.pt", folder / "teacher.pt", [])


def epoch_seconds(row: Row, tracker: Tracker | None) -> list[float]:
    """Train, tracked or not; gives the time of each epoch, with what is done after it."""
    trainer = Trainer(
        build_network(row.experiment, row.train, 0),
        row.train, row.validation, row.experiment, row.runtime, 0,
    )  # fmt: skip
    samples, seconds = to_unit_interval(row.validation.images[:10]), []
    with tracker or nullcontext(), ExitStack() as stack:
        hooks = stack.enter_context(watch(tracker, samples, 5)) if tracker else Hooks()
        for _ in range(row.experiment.epochs):
            start = time.perf_counter()
            hooks.on_epoch(trainer.run_epoch(hooks), trainer.kept_network)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first one prepares the others


@pytest.mark.parametrize("mode", ["slow", "silent"])
def test_an_epoch_takes_as_long_as_without_tracking(
    mode: str, row: Row, way: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getloadavg()[0] > 2 * available_cpus():
        pytest.skip("the machine is too busy to time anything")
    way.mode = mode
    with_it: list[float] = []
    without: list[float] = []
    for number in range(ROUNDS):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"timed {mode} {number}")
        without += epoch_seconds(row, None)
        with_it += epoch_seconds(row, start_seed(row.facts(0, {})))
    # The quickest half: other work on the machine makes the others slower.
    best, tracked = (fmean(sorted(each)[: len(each) // 2]) for each in (without, with_it))
    print(f"{mode}: {best:.3f} s an epoch without, {tracked:.3f} s with tracking")
    assert tracked < 1.05 * best


def test_eight_processes_and_a_reader_share_a_fresh_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    logs = [LOG.model_copy(update={"seed": s, "fingerprint": f"a-{s}"}) for s in range(8)]
    trainings = [Training(log) for log in logs]
    server, ended = Server(tmp_path), threading.Event()

    def read() -> None:
        while not ended.wait(0.05):
            reader = MlflowClient(f"http://127.0.0.1:{server.port}")
            for experiment in reader.search_experiments():
                reader.search_runs([experiment.experiment_id])

    for training in trainings:
        training.reach("middle")
    server.start()
    reading = threading.Thread(target=read)
    reading.start()
    try:
        for training in trainings:
            training.go_on()
        ids = [training.finish(within=60) for training in trainings]
    finally:
        ended.set()
        reading.join()
        server.kill()
    assert all(BUSY in line for training in trainings for line in training.warnings)
    assert len({log.parent_run_id for log in ids}) == 1
    assert len({log.run_id for log in ids}) == 8
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    RowRuns.of(ids).add_models(lambda _, explains: None if explains else served())
    assert len(all_runs()) == 8 + 1
    for log in ids:
        held = contents(log.run_id)
        assert held["status"] == "FINISHED"
        assert [step for step, _, _ in held["history"]["train/loss"]] == list(range(1, EPOCHS + 1))
        assert len(held["pictures"]) == 2 * EPOCHS
        assert len(held["models"]) == 1
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
