"""Seeds that are trained on the nodes of a Ray cluster, here all on this machine."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from protodl.core.config import load_params
from protodl.core.training_log import UNTRACKED, EpochRecord, SeedLog
from protodl.pipeline import dispatch
from protodl.pipeline.cluster import LOOPBACK, VARIABLES, ClusterError, joined
from protodl.pipeline.dispatch import End, Listener
from protodl.pipeline.missing import train_missing
from protodl.pipeline.seeds import Seed, seeds_of
from protodl.tracking.sync import RowRuns
from protodl.training.away import Request, Word, train_away
from tests.pipeline.project import Project
from tests.stages.test_train import ROOT, Stage

TRAININGS = 1000  # in which nothing is computed
STORE = 80 * 2**20  # bytes of a node's object store: the least that Ray takes


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[Any]:
    """A node with room for one training; a test adds others."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Of its own, and short: Ray puts sockets there.
        for name, value in {**VARIABLES, **LOOPBACK, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray.cluster_utils import Cluster

        first = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=first)
        yield cluster
        cluster.shutdown()


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Stage:
    """Two seeds that the train stage itself has trained."""
    stage = Stage(tmp_path_factory.mktemp("local"), migrated_database)
    status, output = stage.run("0, 1")
    assert status == 0, output
    return stage


@pytest.fixture(name="stage")
def _stage(tmp_path: Path, migrated_database: Path) -> Stage:
    """A folder in which nothing is trained."""
    stage = Stage(tmp_path, migrated_database)
    stage.write_params("0, 1")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    shutil.copy(tmp_path / "train.pt", tmp_path / "data" / "mnist")
    return stage


def train(stage: Stage, cluster: Any) -> dict[str, str]:
    params = load_params(stage.folder / "params.yaml")
    return train_missing(stage.folder, params, ["a-row"], cluster.address, {})


def assert_like(stage: Stage, local: Stage) -> None:
    """The train stage has nothing to do, and delivers the bytes of a local training."""
    status, output = stage.run("0, 1")
    assert status == 0, output
    assert "epoch" not in output
    for seed in (0, 1):
        assert stage.model(seed) == local.model(seed)
        history, expected = stage.log(seed).history, local.log(seed).history
        assert [r.train for r in history] == [r.train for r in expected]
        assert [r.validation for r in history] == [r.validation for r in expected]
    assert stage.log(0).fingerprint == local.log(0).fingerprint


Ear = Callable[[dispatch.Running, Word], None]


def epoch(word: Word) -> int:
    """The epoch whose end a word tells; 0: of none."""
    return word.record.epoch if word.record else 0


@pytest.fixture(name="listen")
def _listen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ear], None]:
    """Calls a function after each word that a training says."""
    hear = dispatch.Queue._hear

    def listen(ear: Ear) -> None:
        def listening(queue: dispatch.Queue, running: dispatch.Running, word: Word) -> bool:
            goes_on = hear(queue, running, word)
            ear(running, word)
            return goes_on

        monkeypatch.setattr(dispatch.Queue, "_hear", listening)

    return listen


@pytest.mark.faults
def test_a_seed_whose_node_dies_goes_on_elsewhere_to_the_same_bytes(
    stage: Stage,
    local: Stage,
    cluster: Any,
    listen: Callable[[Ear], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    heard = []

    def ear(running: dispatch.Running, word: Word) -> None:
        heard.append((running.node == second.node_id, epoch(word)))
        if heard[-1] == (True, 1):
            cluster.remove_node(second, allow_graceful=False)

    listen(ear)
    assert train(stage, cluster) == {}
    said = capsys.readouterr().out
    assert said.count("goes on elsewhere after epoch 1: Task failed because the node") == 1
    assert "a-row: trained, every seed is in the checkpoint store" in said
    assert (True, 1) in heard and (True, 3) not in heard
    assert_like(stage, local)
    # Trained without MLflow, a seed gets its run from its log, in the stages that follow.
    logs = [stage.log(seed) for seed in (0, 1)]
    assert {log.run_id for log in logs} == {UNTRACKED}
    monkeypatch.setenv("DVC_ROOT", str(stage.folder))
    assert len(RowRuns.of(logs).created) == 2
    assert RowRuns.of(logs).created == []


@pytest.mark.slow
def test_seeds_are_taken_one_by_one_and_their_listener_ends_one(
    stage: Stage, local: Stage, cluster: Any
) -> None:
    """As a search does, which learns from each before it asks for the next."""
    happened: list[tuple[str, int]] = []
    ends = dict[int, End]()

    def asked() -> Iterator[Seed]:
        for number in (1, 2, 0, 0):
            happened.append(("asked", number))
            stage.write_params(str(number))
            params = load_params(stage.folder / "params.yaml")
            yield from seeds_of(stage.folder, params, ["a-row"])

    def on_epoch(seed: Seed, record: EpochRecord) -> bool:
        assert "accuracy" in record.validation
        happened.append(("epoch", record.epoch))
        return seed.request.seed != 2

    def on_end(seed: Seed, end: End, reason: str) -> None:
        assert not reason
        happened.append(("end", seed.request.seed))
        ends[seed.request.seed] = end

    dispatch.train_seeds(asked(), cluster.address, Listener(on_epoch, on_end), {})
    whole = [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    assert happened == [
        ("asked", 1), *whole, ("end", 1),
        ("asked", 2), ("epoch", 1), ("end", 2),
        ("asked", 0), *whole, ("end", 0),
        ("asked", 0), ("end", 0),
    ]  # fmt: skip
    assert ends == {1: End.FINISHED, 2: End.STOPPED, 0: End.FINISHED}
    assert_like(stage, local)


@pytest.mark.faults
@pytest.mark.slow
def test_a_training_that_hangs_is_ended_and_goes_on_elsewhere(
    stage: Stage,
    local: Stage,
    cluster: Any,
    listen: Callable[[Ear], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "SILENCE_SECONDS", 30.0)
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    stopped: list[int] = []

    def ear(running: dispatch.Running, word: Word) -> None:
        if running.node == second.node_id and epoch(word) == 1 and not stopped:
            stopped.append(word.process)
            os.kill(word.process, signal.SIGSTOP)

    listen(ear)
    assert train(stage, cluster) == {}
    cluster.remove_node(second)
    assert "goes on elsewhere after epoch 1: no word for 3" in capsys.readouterr().out
    assert not psutil.pid_exists(stopped[0])
    assert_like(stage, local)


def fails_with_seed_1(
    request: Request, data: "npt.NDArray[np.uint8]", checkpoint: bytes
) -> Iterator[Word]:
    """What `train_away` is replaced by."""
    if request.seed == 1:
        yield Word(os.getpid())
        raise RuntimeError("bad memory")
    yield from train_away(request, data, checkpoint)


@pytest.mark.faults
@pytest.mark.slow
def test_a_seed_that_fails_by_itself_is_tried_three_times(
    stage: Stage, cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "train_away", fails_with_seed_1)
    assert train(stage, cluster) == {"a-row": "seed 1: bad memory"}
    said = capsys.readouterr().out
    assert said.count("a-row seed 1: goes on elsewhere after epoch 0: bad memory") == 2
    assert said.count("a-row seed 1: failed: bad memory") == 1
    (log,) = (stage.folder / ".protodl").rglob("log.json")
    assert SeedLog.read(log).seed == 0


DRIVER = """
import sys
from pathlib import Path
from protodl.core.config import load_params
from protodl.pipeline.missing import train_missing
train_missing(Path(), load_params("params.yaml"), ["a-row"], sys.argv[1], {})
"""


def processes_of(folder: str) -> list[psutil.Process]:
    """A command's processes, and those of the Ray that it started with this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            # A worker's command line is a title, which names no folder.
            if process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def listened_on(processes: Iterable[psutil.Process]) -> set[str]:
    """The addresses at which others reach these processes."""
    sockets = [each for process in processes for each in process.net_connections("tcp")]
    found = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in found}


@pytest.mark.faults
@pytest.mark.slow
def test_a_command_that_was_killed_leaves_no_process_and_goes_on(
    stage: Stage, local: Stage, cluster: Any, listen: Callable[[Ear], None]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        own = {"RAY_TMPDIR": folder, "RAY_ADDRESS": "local", "PROTODL_THREADS": "1"}
        command = [sys.executable, "-c", DRIVER, "auto"]
        with subprocess.Popen(command, cwd=stage.folder, env={**os.environ, **own}) as process:
            while not (found := list((stage.folder / ".protodl").rglob("training.pt"))):
                assert process.poll() is None
                time.sleep(0.01)
            assert listened_on(processes_of(folder)) == {"127.0.0.1"}
            process.kill()
        end = time.monotonic() + 60
        while left := processes_of(folder):
            assert time.monotonic() < end, left
            time.sleep(0.2)
    assert found
    epochs = []
    listen(lambda running, word: epochs.append((running.seed.folder, epoch(word))))
    assert train(stage, cluster) == {}
    assert (found[0].parent, 2) in epochs
    assert_like(stage, local)


@pytest.mark.faults
@pytest.mark.slow
def test_a_node_that_computes_otherwise_is_refused(
    stage: Stage, cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"ATEN_CPU_CAPABILITY": "default"}
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE, env_vars=other)
    monkeypatch.setenv("PROTODL_THREADS", "2")
    with pytest.raises(ClusterError, match="no node is like this machine"):
        train(stage, cluster)
    cluster.remove_node(node)
    said = capsys.readouterr().out
    assert "is refused: processor's instructions is DEFAULT" in said


@pytest.mark.faults
@pytest.mark.slow
def test_what_a_cluster_cannot_do_is_said_in_one_sentence(
    stage: Stage, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    monkeypatch.setenv("PROTODL_THREADS", "3")
    with pytest.raises(ClusterError, match="asks for 3 CPU, and no node has more than 1 CPU; set"):
        train(stage, cluster)
    monkeypatch.delenv("PROTODL_THREADS")

    def full(_content: bytes, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dispatch, "write_bytes", full)
    with pytest.raises(ClusterError, match="No space left on device; make room and run"):
        train(stage, cluster)
    nowhere = "127.0.0.1:1"
    with pytest.raises(ClusterError, match="no Ray cluster answers there"), joined(nowhere):
        pass
    assert time.monotonic() - started < 60


def trains_nothing(
    _request: Request, _data: "npt.NDArray[np.uint8]", _checkpoint: bytes
) -> Iterator[Word]:
    """What `train_away` is replaced by."""
    yield Word(os.getpid(), files={"log.json": b"{}"})


@pytest.mark.slow
def test_a_training_costs_little_to_hand_out_and_no_memory(
    stage: Stage, cluster: Any, listen: Callable[[Ear], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "train_away", trains_nothing)
    stage.write_params(", ".join(map(str, range(TRAININGS))))
    seen: list[tuple[float, float]] = []

    def ear(_running: dispatch.Running, _word: Word) -> None:
        seen.append((time.monotonic(), psutil.Process().memory_info().rss / 2**20))

    listen(ear)
    assert train(stage, cluster) == {}
    assert len(seen) == TRAININGS
    (start, _), (_, before), (end, after) = seen[0], seen[TRAININGS // 4], seen[-1]
    each, growth = (end - start) / TRAININGS, after - before
    print(f"{1000 * each:.1f} ms for each training, {growth:.1f} MiB more after the first quarter")
    assert each < 0.2
    assert growth < 20


@pytest.mark.faults
def test_without_ray_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'protodl\[cluster\]'"), joined("auto"):
        pass


@pytest.mark.slow
def test_a_run_on_a_cluster_leaves_nothing_to_train(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
    project = Project.create(tmp_path / "project")
    shutil.copy(migrated_database, project.folder / "mlflow.db")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        done = project.run("protodl.cli", "run", "--on", "auto", "grey")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grey: trained, every seed is in the checkpoint store" in done.stdout
    assert "grey seed 0: epoch" not in done.stdout  # what the train stage says of each
    log = SeedLog.read(
        project.folder / "results" / "rows" / "grey" / "training" / "seed-0.json", ""
    )
    assert (log.run_id, log.num_epochs) == (UNTRACKED, 2)
    assert project.model("grey")
    client = mlflow.MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("protodl")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'seed'")
    assert (run.info.status, run.data.tags["fingerprint"]) == ("FINISHED", log.fingerprint)
    steps = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [each.step for each in steps] == [1, 2]
