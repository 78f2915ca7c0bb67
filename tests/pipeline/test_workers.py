"""Rows in parallel: a real DVC repository whose stages are short scripts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from protodl.core.config import Params, load_params
from protodl.core.limits import available_cpus
from protodl.core.process import Interrupted
from protodl.core.training_log import SeedLog
from protodl.pipeline.forecast import describe_expectation, makespan, training_seconds
from protodl.pipeline.quiet_dvc import is_noise
from protodl.pipeline.shares import (
    WORKER_GIB,
    visible_gpus,
    worker_environments,
    workers_in_memory,
)
from protodl.pipeline.workers import Job, Workers, end_groups, end_in_words

DVC_YAML = """
stages:
  check:
    cmd: echo valid > params.ok
    params: [experiments]
    outs: [params.ok]
  download:
    foreach: [mnist]
    do:
      cmd: mkdir -p data && echo ${item} > data/${item}
      deps: [params.ok]
      outs: ["data/${item}"]
  train:
    foreach: ${experiments}
    do:
      cmd: python stage.py ${key} ${item.epochs}
      params: ["experiments.${key}"]
      deps: [data/mnist]
      outs: ["models/${key}"]
  evaluate:
    foreach: ${experiments}
    do:
      cmd: >-
        mkdir -p results/rows/${key} &&
        echo '{"mean":{"test_accuracy":0.75}}' > results/rows/${key}/metrics.json
      deps: ["models/${key}"]
      metrics:
        - results/rows/${key}/metrics.json:
            cache: false
  prototypes:
    foreach: ${experiments}
    do:
      cmd: mkdir -p pictures && echo ${key} > pictures/${key}
      deps: ["models/${key}"]
      outs: ["pictures/${key}"]
  report:
    cmd: ls results/rows > RESULTS.md
    deps: [results/rows]
    outs:
      - RESULTS.md:
          cache: false
"""

SHARED = ["seeds: [0]", "data: {source: sample}", "training: {validation_size: 400}"]

# The number of epochs decides what a training does.
MEETS, FAILS, WAITS, WORKS, DIES = 1, 2, 3, 4, 5
STAGE = """
import os, signal, sys, time
from pathlib import Path

row, epochs = sys.argv[1], int(sys.argv[2])
Path("models").mkdir(exist_ok=True)
with open("order.log", "a") as log:
    print(row, os.environ.get("PROTODL_THREADS"), os.environ.get("OMP_NUM_THREADS"), file=log)
if epochs == 1:  # ends only while another one is running
    Path(f"{row}.here").touch()
    deadline = time.monotonic() + 20
    while len(list(Path().glob("*.here"))) < 2:
        if time.monotonic() > deadline:
            sys.exit("nobody came")
        time.sleep(0.05)
if epochs == 2:
    sys.exit("this one fails")
if epochs == 3:  # until it is told to stop; then it puts things in order
    def stop(*_):
        Path(f"{row}.stopped").touch()
        sys.exit(1)
    signal.signal(signal.SIGTERM, stop)
    Path(f"{row}.pid.new").write_text(str(os.getpid()))
    Path(f"{row}.pid.new").rename(f"{row}.pid")
    time.sleep(120)
if epochs == 5:
    os.kill(os.getpid(), signal.SIGKILL)
print("trained", row, flush=True)
Path("models", row).write_text(row)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n no_scm = true\n analytics = false\n")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "stage.py").write_text(STAGE)
    return tmp_path


def write_params(project: Path, **epochs: int) -> None:
    rows = [f"  {row}: {{dataset: mnist, epochs: {number}}}" for row, number in epochs.items()]
    (project / "params.yaml").write_text("\n".join([*SHARED, "experiments:", *rows, ""]))


def seed_log(row: str, train_seconds: float, num_epochs: int) -> SeedLog:
    return SeedLog(
        row=row,
        seed=0,
        fingerprint="f",
        experiment_name="e",
        run_id="r",
        parent_run_id="p",
        parameters={},
        environment={},
        start_ms=0,
        end_ms=1,
        train_seconds=train_seconds,
        num_epochs=num_epochs,
        selected_epoch=1,
        num_train=1,
        num_validation=1,
        data_digest="d",
        history=[],
    )


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def protodl(project: Path) -> Iterator[Start]:
    """Start the command in the project; whatever a failed test leaves running is ended."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with ExitStack() as stack:
        # A shell's background job ignores SIGINT, and so would what it starts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGINT, before)

        def start(*arguments: str) -> "subprocess.Popen[str]":
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "protodl.cli", *arguments],
                    cwd=project,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.terminate)
            return process

        yield start


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"never came: {paths}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and unburied does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_measuring_again_is_not_said_to_take_under_a_minute(tmp_path: Path) -> None:
    params = Params.model_validate({"seeds": [0], "experiments": {"a": {"dataset": "mnist"}}})
    assert "under a minute" in describe_expectation(tmp_path, params, {}, [], [])
    again = describe_expectation(tmp_path, params, {}, ["a", "b"], [])
    assert again == "expected time: about 2 min (measuring and drawing of 2 rows)"


def test_rows_run_side_by_side_the_longest_first(project: Path, protodl: Start) -> None:
    write_params(project, quick=WORKS, long=MEETS, new=MEETS)
    for row, epochs, seconds in [("quick", WORKS, 30.0), ("long", MEETS, 7000.0)]:
        log = seed_log(row, train_seconds=seconds, num_epochs=epochs)
        log.write(project / "results" / "rows" / row / "training" / "seed-0.json")

    run = protodl("run", "-j", "2")
    output, errors = run.communicate(timeout=60)

    assert run.returncode == 0, output + errors
    assert output.startswith("expected time: about 1 h 57 min, 2 at a time (training of 3 rows")
    assert "not recorded yet and on top of that: new" in output
    lines = [line.split() for line in (project / "order.log").read_text().splitlines()]
    order = [row for row, _, _ in lines]
    assert (set(order[:2]), order[2]) == ({"new", "long"}, "quick")
    threads = str(max(1, available_cpus() // 2))
    assert all(numbers == [threads, threads] for _, *numbers in lines)
    for row in order:
        assert f"{row} | trained {row}" in output
        assert f"{row}: test accuracy 0.7500" in output
    assert (project / "RESULTS.md").read_text().split() == ["long", "new", "quick"]

    again = protodl("run", "-j", "2")
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, output + errors
    assert "no training has changed" in output
    assert "Running stage" not in output
    assert "didn't change" not in output and "dvc push" not in output


@pytest.mark.parametrize(
    ("message", "noise"),
    [
        ("Stage 'train@fashion' didn't change, skipping", True),
        ("'data/other.dvc' didn't change, skipping", True),
        ("\nTo track the changes with git, run:\n\n\tgit add dvc.lock", True),
        ("Use `dvc push` to send your updates to remote storage.", True),
        ("Running stage 'train@fashion':", False),
        ("Stage 'evaluate@fashion' is cached - skipping run, checking out outputs", False),
        ("failed to reproduce 'train@fashion': it didn't change, skipping", False),
    ],
)
def test_what_dvc_says_for_nothing_is_left_out(message: str, noise: bool) -> None:
    assert is_noise(message) == noise


def test_a_failed_row_is_named_and_stops_no_other(project: Path, protodl: Start) -> None:
    write_params(project, bad=FAILS, dead=DIES, good=WORKS, fine=WORKS)

    run = protodl("run", "-j", "2")
    output, errors = run.communicate(timeout=60)

    assert run.returncode == 1
    assert "error: failed: bad, dead " in errors or "error: failed: dead, bad " in errors
    assert "Traceback" not in output + errors
    assert "bad | this one fails" in output
    assert output.count("killed by") == 1
    assert "dead | The stage was killed by SIGKILL (often for lack of memory" in output
    assert sorted(path.name for path in (project / "pictures").iterdir()) == ["fine", "good"]
    assert not (project / "RESULTS.md").exists()  # it would lack a row


def test_one_row_alone(project: Path, protodl: Start) -> None:
    write_params(project, a=WORKS, b=FAILS)

    run = protodl("run", "a")
    output, errors = run.communicate(timeout=60)

    assert run.returncode == 0, output + errors
    assert "[1/1] a: test accuracy 0.7500" in output
    assert "pictures of a: results/rows/a/pictures/" in output
    assert "no lines of the table: results/rows/a/training/seed-0.json: missing" in output
    assert (project / "order.log").read_text().split()[0::3] == ["a"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "exit status 1"),
        (255, "exit status 255"),
        (-11, "killed by SIGSEGV"),
        (143, "killed by SIGTERM"),
        (137, "killed by SIGKILL (often for lack of memory"),
    ],
)
def test_an_exit_status_is_told_in_words(status: int, words: str) -> None:
    assert end_in_words(status).startswith(words)


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGHUP), (2, signal.SIGINT)])
def test_no_training_outlives_the_command(
    project: Path, protodl: Start, jobs: int, number: int
) -> None:
    rows = ["a", "b"][:jobs]
    write_params(project, a=WAITS, b=WAITS)

    run = protodl("run", "-j", str(jobs))
    wait_for(*(project / f"{row}.pid" for row in rows))
    pids = [int((project / f"{row}.pid").read_text()) for row in rows]
    assert all(is_alive(pid) for pid in pids)
    run.send_signal(number)
    output, errors = run.communicate(timeout=30)

    assert run.returncode == -number, output + errors
    assert "Traceback" not in errors
    assert "the same command goes on" in errors
    assert not any(is_alive(pid) for pid in pids)
    assert all((project / f"{row}.stopped").exists() for row in rows)


@pytest.mark.faults
def test_a_second_run_is_told_of_the_first(project: Path, protodl: Start) -> None:
    """Which it leaves alone; the first one ends soon after its parent, if that is killed."""
    write_params(project, a=WAITS)
    first = protodl("run")
    wait_for(project / "a.pid")

    second = protodl("run")
    output, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "busy, it is being blocked by" in errors and "repro --single-item train@a" in errors
    assert "wait for its end, or end it, and repeat this command" in errors
    assert "Traceback" not in output + errors

    pid = int((project / "a.pid").read_text())
    (dvc,) = psutil.Process(first.pid).children()
    first.kill()
    _, alive = psutil.wait_procs([dvc], timeout=10)
    assert not alive
    os.kill(pid, signal.SIGKILL)  # this stage is none of ours, which would have ended by itself


@pytest.fixture
def stubborn() -> Iterator["subprocess.Popen[str]"]:
    """A shell and its child, both deaf to SIGTERM."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process


def test_a_deaf_child_is_killed_with_its_own_children(
    stubborn: "subprocess.Popen[str]",
) -> None:
    assert stubborn.stdout is not None
    child = int(stubborn.stdout.readline())
    assert is_alive(child)

    end_groups([stubborn], grace=0.3)

    assert stubborn.returncode == -signal.SIGKILL
    end = time.monotonic() + 5  # a killed process may have to wait for a processor to die
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(child)


def test_each_worker_has_its_own_environment(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job(str(i), ("/bin/sh", "-c", "echo on $SLOT; sleep 0.5")) for i in range(4)]
    ended: list[tuple[str, int]] = []

    workers = Workers(tmp_path, [{"SLOT": "one"}, {"SLOT": "two"}], prefix=True)
    workers.run(jobs, lambda job, status: ended.append((job.name, status)))

    assert sorted(ended) == [(str(i), 0) for i in range(4)]
    lines = capfd.readouterr().out.splitlines()
    assert {line.split(" | ")[1] for line in lines[:2]} == {"on one", "on two"}
    assert len(lines) == 4


def test_a_stop_signal_leaves_waiting_jobs_unstarted(tmp_path: Path) -> None:
    jobs = [
        Job("first", ("/bin/sh", "-c", f"kill -TERM {os.getpid()}; sleep 60")),
        Job("second", ("/bin/sh", "-c", "touch started")),
    ]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        Workers(tmp_path, [{}]).run(jobs, lambda _job, _status: None)
    assert stopped.value.number == signal.SIGTERM
    assert not (tmp_path / "started").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_that_closes_under_nohup_stops_nothing(tmp_path: Path) -> None:
    jobs = [Job("one", ("/bin/sh", "-c", f"kill -HUP {os.getpid()}; sleep 0.3; touch done"))]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Workers(tmp_path, [{}]).run(jobs, lambda _job, _status: None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "done").exists()


def test_the_expectation_follows_epochs_and_seeds(tmp_path: Path) -> None:
    write_params(tmp_path, a=20)
    params = load_params(tmp_path / "params.yaml")
    assert training_seconds(tmp_path, params, "a") is None
    unknown = describe_expectation(tmp_path, params, {}, ["a"], ["a"])
    assert unknown.startswith("expected time: unknown, nothing is recorded yet of a (training of")
    for seed, seconds in enumerate([90.0, 110.0]):
        path = tmp_path / "results" / "rows" / "a" / "training" / f"seed-{seed}.json"
        seed_log("a", train_seconds=seconds, num_epochs=10).write(path)
    assert training_seconds(tmp_path, params, "a") == pytest.approx(200.0)
    more = params.model_copy(update={"seeds": [0, 1, 2]})
    assert training_seconds(tmp_path, more, "a") == pytest.approx(600.0)
    said = describe_expectation(tmp_path, more, {"mnist": ["judge"]}, ["a"], ["a"], workers=2)
    assert said.startswith("expected time: about 10 min, 2 at a time")
    assert "training of 1 row, 3 seeds each" in said
    assert said.endswith("; not recorded yet and on top of that: mnist")
    judge = tmp_path / "results" / "judges" / "mnist.json"
    judge.parent.mkdir()
    judge.write_text('{"train_seconds": 100, "num_epochs": 1}')
    said = describe_expectation(tmp_path, more, {"mnist": ["judge"]}, ["a"], ["a"])
    assert said.startswith("expected time: about 20 min (classifiers of 1 data set")


def test_jobs_are_given_to_the_worker_that_is_free_first() -> None:
    assert makespan([5, 4, 3, 3, 3], 2) == 10
    assert makespan([5, 4], 9) == 5
    assert makespan([], 1) == 0


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [("", []), ("-1", []), ("3", ["3"]), ("0,2", ["0", "2"]), ("GPU-a,,GPU-b", ["GPU-a", "GPU-b"])],
)
def test_the_chosen_gpus_are_the_usable_ones(
    chosen: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("listed", "gpus"),
    [
        ("GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)", ["0", "1"]),
        ("GPU 0: A (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-2)", []),
    ],
)
def test_gpus_are_those_that_the_driver_lists(
    listed: str, gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"  # prints what the real one prints on such a machine
    driver.write_text(f"#!/bin/sh\ncat << END\n{listed}\nEND\n")
    driver.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert visible_gpus() == gpus
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


def test_workers_take_several_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus(workers: int, device: str = "auto") -> list[str | None]:
        environments = worker_environments(workers, device)
        return [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert gpus(3) == ["4", "7", "4"]
    assert gpus(1) == [None]  # as it is set already
    assert gpus(2, "cpu") == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert gpus(2) == [None, None]


@pytest.mark.parametrize("source", ["full", "sample"])
@pytest.mark.parametrize(("rows", "expected"), [(0.5, 1), (2.9, 2), (4, 4), (9, 4)])
def test_memory_limits_the_workers_and_that_is_told(
    source: str, rows: float, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workers_in_memory(4, source, rows * WORKER_GIB[source]) == expected
    told = capsys.readouterr().out
    assert (f": {expected} at a time, not 4" in told) == (expected < 4)
    assert bool(told) == (expected < 4)
