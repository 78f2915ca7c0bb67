"""Seeds that are trained on the nodes of a Ray cluster, here all on this machine."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from benchmarks.cluster import NOTHING as TRAININGS
from benchmarks.cluster import cost
from protodl.core.config import ConfigError, load_params
from protodl.core.training_log import UNTRACKED, EpochRecord, SeedLog
from protodl.pipeline import dispatch, seeds
from protodl.pipeline.cluster import LOOPBACK, VARIABLES, ClusterError, joined, slots
from protodl.pipeline.dispatch import End, Listener
from protodl.pipeline.missing import train_missing
from protodl.pipeline.seeds import Seed, resources, seeds_of
from protodl.training.away import Request, Word, train_away
from tests.disks import mounted
from tests.pipeline.project import Project
from tests.stages.test_train import ROOT, Stage
from tests.studies.test_studies import add_studies

STORE = 80 * 2**20  # bytes of a node's object store: the least that Ray takes


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[Any]:
    """A node with room for one training; a test adds others."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Of its own, and short: Ray puts sockets there.
        own = {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        for name, value in {**VARIABLES, **LOOPBACK, **own}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        first = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=first)
        yield cluster
        cluster.shutdown()


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Stage:
    """Two seeds that the train stage itself has trained."""
    return Stage.trained(tmp_path_factory.mktemp("local"), migrated_database, "0, 1")


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
        stage.assert_trained_as(local, seed)


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


def process_of(number: int) -> list[psutil.Process]:
    """The process of this number, or none; one that is killed is gone a moment later."""
    try:
        return [psutil.Process(number)]
    except psutil.NoSuchProcess:
        return []


def dies(cluster: Any, node: Any, _process: int) -> None:
    cluster.remove_node(node, allow_graceful=False)


def hangs(_cluster: Any, _node: Any, process: int) -> None:
    os.kill(process, signal.SIGSTOP)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (dies, "Task failed because the node"),
        pytest.param(hangs, "no word for 3", marks=pytest.mark.slow),
    ],
)
def test_a_seed_whose_node_dies_or_hangs_goes_on_elsewhere_to_the_same_bytes(
    stage: Stage,
    local: Stage,
    cluster: Any,
    listen: Callable[[Ear], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Any, Any, int], None],
    reason: str,
) -> None:
    monkeypatch.setattr(dispatch, "SILENCE_SECONDS", 30.0)
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    on_second: dict[int, int] = {}  # the process that told of an epoch

    def ear(running: dispatch.Running, word: Word) -> None:
        if running.node == second.node_id and epoch(word):
            if not on_second:
                fault(cluster, second, word.process)
            on_second[epoch(word)] = word.process

    listen(ear)
    assert train(stage, cluster) == {}
    if fault is hangs:
        cluster.remove_node(second)
    said = capsys.readouterr().out
    assert said.count(f"goes on elsewhere after epoch 1: {reason}") == 1
    assert "a-row: trained, every seed is in the checkpoint store" in said
    assert 3 not in on_second
    _, alive = psutil.wait_procs(process_of(on_second[1]), timeout=10)
    assert alive == []
    assert_like(stage, local)


@pytest.mark.faults
@pytest.mark.slow
def test_twenty_one_seeds_lose_one_node_and_another_hangs(
    stage: Stage,
    cluster: Any,
    listen: Callable[[Ear], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> None:
    """As many trainings as the table has, on three nodes."""
    monkeypatch.setattr(dispatch, "SILENCE_SECONDS", 30.0)
    many = ", ".join(map(str, range(21)))
    local = Stage.trained(tmp_path_factory.mktemp("many"), migrated_database, many)
    stage.write_params(many)
    second, third = (
        cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in ("dies", "hangs")
    )
    faults = {second.node_id: (dies, second), third.node_id: (hangs, third)}

    def ear(running: dispatch.Running, word: Word) -> None:
        if epoch(word) and running.node in faults:
            fault, node = faults.pop(running.node)
            fault(cluster, node, word.process)

    listen(ear)
    assert train(stage, cluster) == {}
    cluster.remove_node(third)
    assert faults == {}
    said = capsys.readouterr().out
    for reason in ("Task failed because the node", "no word for 3"):
        assert f"goes on elsewhere after epoch 1: {reason}" in said
    status, output = stage.run(many)
    assert status == 0, output
    assert "epoch" not in output
    for seed in range(21):
        stage.assert_trained_as(local, seed)


@pytest.mark.slow
def test_seeds_are_taken_one_by_one_and_their_listener_ends_one(
    stage: Stage, local: Stage, cluster: Any, listen: Callable[[Ear], None]
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

    processes = set[int]()
    listen(lambda running, word: processes.add(word.process))
    dispatch.train_seeds(asked(), cluster.address, Listener(on_epoch, on_end), {})
    whole = [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    assert happened == [
        ("asked", 1), *whole, ("end", 1),
        ("asked", 2), ("epoch", 1), ("end", 2),
        ("asked", 0), *whole, ("end", 0),
        ("asked", 0), ("end", 0),
    ]  # fmt: skip
    assert len(processes) == 1  # the start of another one would take ten seconds
    assert ends == {1: End.FINISHED, 2: End.STOPPED, 0: End.FINISHED}
    assert_like(stage, local)


def fails_with_seed_1(
    request: Request,
    data: "npt.NDArray[np.uint8]",
    teacher: "npt.NDArray[np.uint8]",
    checkpoint: bytes,
) -> Iterator[Word]:
    """What `train_away` is replaced by."""
    if request.seed == 1:
        yield Word(os.getpid())
        raise RuntimeError("bad memory")
    yield from train_away(request, data, teacher, checkpoint)


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
def test_a_node_whose_disk_is_full_gets_no_more(
    stage: Stage, local: Stage, cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not mounted(tmp_path / "full", "size=1m"):
        pytest.skip("only root may mount a small disk")
    full = {"TMPDIR": str(tmp_path / "full")}
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE, env_vars=full)
    assert train(stage, cluster) == {}
    cluster.remove_node(node)
    subprocess.run(["umount", full["TMPDIR"]], check=True)
    said = capsys.readouterr().out
    assert said.count("is refused: [Errno 28] No space left on device: ") == 1
    assert_like(stage, local)


@pytest.fixture(name="five")
def _five(stage: Stage) -> list[Seed]:
    """Seeds that ask for the memory of full data."""
    stage.write_params("0, 1, 2, 3, 4")
    params = load_params(stage.folder / "params.yaml")
    return list(seeds_of(stage.folder, params, ["a-row"]))


def says_what_it_has(_request: Request, *_files: "npt.NDArray[np.uint8] | bytes") -> Iterator[Word]:
    """What `train_away` is replaced by."""
    import ray

    given = ray.get_runtime_context().get_assigned_resources()
    has = {**given, "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}
    time.sleep(0.5)  # others run beside it
    yield Word(os.getpid(), files={"log.json": json.dumps(has).encode()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "memory", "at_once", "gpus"),
    [("cpu", 7, 2, {(None, "all")}), ("cuda", 40, 4, {(0.4, "0"), (0.4, "1")})],
)
def test_a_node_gets_the_trainings_that_it_has_the_resources_for(
    five: list[Seed],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    memory: int,
    at_once: int,
    gpus: set[tuple[float | None, str]],
) -> None:
    """No GPU computes here: Ray takes our word that the node has two, and shares them out."""
    monkeypatch.setattr(dispatch, "train_away", says_what_it_has)
    monkeypatch.setenv("PROTODL_GPU_SHARE", "0.4")
    for seed in five:  # as on a machine with such a device
        params = seed.request.params
        training = params.training.model_copy(update={"device": device, "threads": 2})
        params = params.model_copy(update={"training": training})
        seed.request = replace(seed.request, params=params)
    node = cluster.add_node(
        num_cpus=16, num_gpus=2, memory=memory * 2**30, object_store_memory=STORE
    )
    running: list[int] = []
    start = dispatch.Queue._start

    def starting(queue: dispatch.Queue) -> None:
        start(queue)
        running.append(len(queue._running))

    monkeypatch.setattr(dispatch.Queue, "_start", starting)
    dispatch.train_seeds(five, cluster.address, Listener(), {})
    cluster.remove_node(node)
    assert max(running) == at_once
    found = [json.loads((seed.folder / "log.json").read_text()) for seed in five]
    assert {(each["CPU"], each["memory"]) for each in found} == {(2, 3 * 2**30)}
    assert {(each.get("GPU"), each["visible"]) for each in found} == gpus


@pytest.mark.parametrize(
    ("has", "asked", "room"),
    [
        ({"CPU": 64, "memory": 10}, {"CPU": 1, "memory": 3}, 3),
        ({"CPU": 7, "memory": 99}, {"CPU": 2, "memory": 3}, 3),
        ({"CPU": 64, "memory": 99, "GPU": 2}, {"CPU": 1, "memory": 3, "GPU": 0.4}, 4),
        ({"CPU": 64, "memory": 99, "GPU": 1}, {"CPU": 1, "memory": 3, "GPU": 0.1}, 10),
        ({"CPU": 3, "memory": 99, "GPU": 8}, {"CPU": 1, "memory": 3, "GPU": 1}, 3),
        ({"CPU": 64, "memory": 99}, {"CPU": 1, "memory": 3, "GPU": 1}, 0),
    ],
)
def test_a_node_has_room_for_what_fits_whole(
    has: dict[str, float], asked: dict[str, float], room: int
) -> None:
    assert slots(has, asked) == room


@pytest.mark.parametrize("share", ["", "half", "0", "0.001", "-1", "1.5", "nan"])
def test_a_share_of_a_gpu_that_is_none_is_named(
    share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(ROOT / "params.yaml")
    training = params.training.model_copy(update={"device": "cuda"})
    monkeypatch.setenv("PROTODL_GPU_SHARE", share)
    with pytest.raises(ConfigError, match=f"PROTODL_GPU_SHARE={share}: a share of a GPU is at"):
        resources(params.model_copy(update={"training": training}))


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
    with pytest.raises(ClusterError, match="no node can be used"):
        train(stage, cluster)
    cluster.remove_node(node)
    said = capsys.readouterr().out
    assert "is refused: processor's instructions is DEFAULT" in said


@pytest.mark.faults
@pytest.mark.slow
def test_what_a_cluster_cannot_do_is_said_in_one_sentence(
    stage: Stage, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    with monkeypatch.context() as patch, said_soon("3 CPU and 3 GiB of memory, and no node has"):
        patch.setenv("PROTODL_THREADS", "3")
        train(stage, cluster)
    much = {"full": 2.0**20}
    with monkeypatch.context() as patch, said_soon("no node has more .*`ray start --memory` says"):
        patch.setattr(seeds, "WORKER_GIB", much)
        train(stage, cluster)
    with (
        monkeypatch.context() as patch,
        said_soon("mismatch: .* Ray: 2.* Ray: 1.0.0"),
    ):
        patch.setattr(ray, "__version__", "1.0.0")
        train(stage, cluster)
    with said_soon("no Ray cluster answers there"), joined("127.0.0.1:1"):
        pass

    def full(_content: bytes, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dispatch, "write_bytes", full)
    with said_soon("No space left on device; make room and run"):
        train(stage, cluster)


@contextmanager
def said_soon(words: str) -> Iterator[None]:
    """In one line, within half a minute."""
    start = time.monotonic()
    with pytest.raises(ClusterError, match=words) as error:
        yield
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_a_training_costs_little_to_hand_out_and_no_memory(stage: Stage, cluster: Any) -> None:
    stage.write_params(", ".join(map(str, range(TRAININGS))))
    params = load_params(stage.folder / "params.yaml")
    found = cost(list(seeds_of(stage.folder, params, ["a-row"])), cluster.address)
    print(found)
    assert found.seconds < 0.2
    assert found.growth < 20


@pytest.mark.faults
def test_without_ray_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'protodl\[cluster\]'"), joined("auto"):
        pass


@pytest.mark.slow
def test_a_run_and_a_study_on_a_cluster_leave_nothing_to_train(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
    project = Project.create(tmp_path / "project")
    shutil.copy(migrated_database, project.folder / "mlflow.db")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp())
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

    add_studies(project)
    done = project.run("studies.run", "ablation", "--on", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mnist-default: trained, every seed is in the checkpoint store" in done.stdout
    assert "mnist-default seed 0: epoch" not in done.stdout
    assert (project.folder / "studies" / "ablation" / "ABLATION.md").is_file()


# --- cut off ----------------------------------------------------------------------------------

HERE, THERE, LINK = "10.77.0.1", "10.77.0.2", ("protodl-here", "protodl-there")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def other_network(name: str) -> Iterator[tuple[str, ...]]:
    """A network of its own, joined with ours by a cable; the command that runs others in it."""
    inside = ("ip", "netns", "exec", name)
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        ip("link", "add", LINK[0], "type", "veth", "peer", "name", LINK[1])
        ip("link", "set", LINK[1], "netns", name)
        ip("addr", "add", f"{HERE}/24", "dev", LINK[0])
        ip("link", "set", LINK[0], "up")
        for command in (f"addr add {THERE}/24 dev {LINK[1]}", f"link set {LINK[1]} up"):
            ip("-n", name, *command.split())
        ip("-n", name, "link", "set", "lo", "up")
        yield inside
    finally:
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        for pid in pids.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "link", "del", LINK[0]], check=False, capture_output=True)
        ip("netns", "del", name)


@contextmanager
def started_node(
    address: str, folder: str, *options: str, inside: tuple[str, ...] = ()
) -> Iterator[None]:
    """A node with room for one training, as `ray start` starts it on a machine."""
    ray = str(Path(sys.executable).with_name("ray"))
    own = f"--node-ip-address={address} --num-cpus=1 --object-store-memory={STORE} --block"
    process = subprocess.Popen(
        [*inside, ray, "start", *own.split(), *options],
        env={**os.environ, **VARIABLES, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        left = psutil.Process(process.pid).children(recursive=True)
        for each in (*left, process):
            each.kill()
        process.wait()


def wait_for_nodes(address: str, count: int) -> None:
    """Until so many nodes have joined the cluster."""
    import ray

    end = time.monotonic() + 60
    while True:
        assert time.monotonic() < end, address
        try:
            with joined(address):
                if sum(node["Alive"] for node in ray.nodes()) == count:
                    return
        except ClusterError:
            time.sleep(0.5)


@pytest.mark.faults
@pytest.mark.slow
def test_a_seed_whose_node_is_cut_off_goes_on_elsewhere_to_the_same_bytes(
    stage: Stage,
    local: Stage,
    listen: Callable[[Ear], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its processes go on, but nothing of them comes through any more."""
    pytest.importorskip("ray")
    for name in LOOPBACK:  # of the other tests' cluster
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(dispatch, "SILENCE_SECONDS", 30.0)
    cut: list[int] = []

    def ear(running: dispatch.Running, word: Word) -> None:
        if epoch(word) and not cut and running.node == there():
            ip("link", "set", LINK[0], "down")
            ip("addr", "add", f"{HERE}/32", "dev", "lo")  # ours stays reachable for ourselves
            cut.append(epoch(word))

    def there() -> str:
        import ray

        found = [node for node in ray.nodes() if node["NodeManagerAddress"] == THERE]
        return str(found[0]["NodeID"])

    listen(ear)
    address = f"{HERE}:6399"
    head = ("--head", "--port=6399", "--include-dashboard=false")
    params = load_params(stage.folder / "params.yaml")
    with (
        tempfile.TemporaryDirectory() as a,
        tempfile.TemporaryDirectory() as b,
        other_network("protodl-test") as inside,
        started_node(HERE, a, *head),
    ):
        wait_for_nodes(address, 1)
        with started_node(THERE, b, f"--address={address}", inside=inside):
            wait_for_nodes(address, 2)
            try:
                failed = train_missing(stage.folder, params, ["a-row"], address, {})
            finally:
                subprocess.run(["ip", "addr", "del", f"{HERE}/32", "dev", "lo"], check=False)
    said = capsys.readouterr().out
    assert failed == {}
    assert cut == [1]
    assert said.count("goes on elsewhere after epoch 1: ") == 1, said
    assert_like(stage, local)
