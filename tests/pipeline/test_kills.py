"""Kills at random moments: the next run ends with the bits of one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.pipeline.project import Project

# The points FROM to COUNT, the same ones every time; PROTODL_MINUTES leaves the last ones out.
COUNT = int(os.environ.get("PROTODL_KILLS", "80"))
FROM = int(os.environ.get("PROTODL_KILLS_FROM", "0"))
# Whether MLflow's runs must be those of a run that nobody disturbed, too.
TRACKING = os.environ.get("PROTODL_KILLS_TRACKING", "1") == "1"
LONGEST_SECONDS = 400  # of a command; then something waits for ever
PARAMS = """
seeds: [0, 1]
data: {source: sample}
training: {validation_size: 400, pictures_every: 1}
judge: {epochs: 1}
teacher: {epochs: 1, width: 4}
datasets: {mnist: {torchvision: MNIST}}
recipes: {mnist: {}, paper: {}, port: {}, resnet-gpu: {}}
defaults: {epochs: 3}
experiments:
  grey: {dataset: mnist, model: {num_prototypes: 4, project: true}, loss: {distillation: 5}}
  other: {dataset: mnist, model: {decoder: upconv, num_prototypes: 5}, epochs: 2}
"""
ALONE = ("dvc", "repro", "--single-item")
FIRST = (*ALONE, "check", "folders")
COMMANDS: dict[str, tuple[str, ...]] = {
    "download": (*ALONE, "download@mnist"),
    "judge": (*ALONE, "judge@mnist"),
    "teacher": (*ALONE, "teacher@mnist"),
    "train": (*ALONE, "train@grey"),
    "evaluate": (*ALONE, "evaluate@grey"),
    "prototypes": (*ALONE, "prototypes@grey"),
    "other row": (*ALONE, "train@other", "evaluate@other", "prototypes@other"),
    "report": (*ALONE, "report"),
    "sync": ("protodl.cli", "sync"),
    "export": ("protodl.cli", "export", "grey", "exported"),
    "run": ("protodl.cli", "run", "-j", "2"),
}
STAGES = ("download", "judge", "teacher", "train", "evaluate", "prototypes", "report")
WITHOUT_DVC = ("sync", "export")
OWN = (*WITHOUT_DVC, "run")
# Who is ended: all at once, only what was started, only a process below it; how: kill if not said.
VICTIMS = ("all", "first", "stage", "first by SIGTERM", "group by SIGINT", "group by SIGHUP")
# What appears in the moment of a kill.
STORE = ".protodl/checkpoints/*/"
SIGNS = {
    "download": ("data/mnist/.train.pt.*.part", "data/mnist/train.pt"),
    "judge": ("models/judges/.*.part", "results/judges/mnist.json"),
    "teacher": ("models/teachers/.*.part", "results/teachers/mnist.json"),
    "train": (
        *(STORE + name for name in (".training.pt.*.part", "training.pt", "network.pt")),
        *(STORE + name for name in ("unprojected.pt", ".log.json.*.part", "log.json")),
        "results/rows/grey/training/seed-0.json",
        "results/rows/grey/curves.csv",
    ),
    "evaluate": ("results/rows/grey/references/seed-0.pt", "results/rows/grey/metrics.json"),
    "prototypes": ("results/rows/grey/pictures/*.png", "results/rows/grey/pictures/.*.part"),
    "report": ("results/results.json", "report/index.html"),
    "export": ("exported/.*.part", "exported/config.json"),
    "run": ("models/other/seed-0.pt", "results/rows/grey/metrics.json"),
}
# What holds times, or is made of what does: compared without the times, or not for trainings.
TIMES = {"timestamp_ms", "seconds", "images_per_second", "start_ms", "end_ms", "train_seconds"}
TIMES |= {"run_id", "parent_run_id", "git_revision", "mean_seconds", "digest"}
PAGES = ("RESULTS.md", "report/", "results/results.json", "results/cards/")
OUTCOME = ("data", "models", "results", "report", "exported", "RESULTS.md")


@dataclass(frozen=True)
class Point:
    """When a command is killed: at a share of its usual time, or when a file appears; and who."""

    command: str
    victim: str
    moment: float | str

    def __str__(self) -> str:
        moment = self.moment if isinstance(self.moment, str) else f"{self.moment:.2f}"
        return f"{self.command}, {self.victim}, {moment}"


def points() -> list[Point]:
    """Each command with each victim, each sign, and more at random; the same ones every time."""
    draw = random.Random(7)
    pairs = [(name, victim) for name in STAGES for victim in VICTIMS]
    pairs += [(name, victim) for name in WITHOUT_DVC for victim in VICTIMS if victim != "stage"]
    pairs += [("run", victim) for victim in (*VICTIMS, "dvc")]
    found = [Point(*pair, draw.uniform(0.1, 0.95)) for pair in pairs]
    found += [Point(name, "all", sign) for name, signs in SIGNS.items() for sign in signs]
    draw.shuffle(found)
    while len(found) < COUNT:
        found.append(Point(draw.choice(STAGES), draw.choice(VICTIMS), draw.uniform(0.1, 0.95)))
    return found[FROM:COUNT]


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody disturbs: what it finds, how long it takes, what it leaves."""

    before: Project
    seconds: float
    after: dict[str, Any]
    runs: list[tuple[Any, ...]]


class States:
    """Every command undisturbed, one after another, each computed when it is asked for."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder, self._database = folder, database
        project = Project.create(folder / "project")
        project.write_params(PARAMS)
        project.commit()
        shutil.copy(database, project.folder / "mlflow.db")
        finish(project, FIRST)
        self._whole, self._project = project.copy(folder / "whole"), project
        self._found: dict[str, Undisturbed] = {}

    def __getitem__(self, name: str) -> Undisturbed:
        before = [] if name == "run" else list(COMMANDS)[: list(COMMANDS).index(name)]
        for each in [*before, name]:
            if each not in self._found:
                self._found[each] = self._compute(each)
        return self._found[name]

    def _compute(self, name: str) -> Undisturbed:
        project = self._whole if name == "run" else self._project
        if name == "sync":  # has something to do where MLflow is empty
            shutil.copy(self._database, project.folder / "mlflow.db")
        before = project.copy(self._folder / name)
        seconds = finish(project, COMMANDS[name])
        return Undisturbed(before, seconds, outcome(project, name), tracked(project))


@pytest.fixture(name="states", scope="module")
def _states(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> States:
    return States(tmp_path_factory.mktemp("undisturbed"), migrated_database)


def finish(project: Project, command: tuple[str, ...]) -> float:
    """Run a command to its end; the seconds that it took."""
    started = time.monotonic()
    done = project.run(*command)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said, said
    return time.monotonic() - started


def outcome(project: Project, command: str) -> dict[str, Any]:
    """What the files hold, without times, and what dvc.lock says of them."""
    tops = [project.folder / name for name in OUTCOME]
    files = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    names = [path.relative_to(project.folder).as_posix() for path in files]
    trained = command in ("train", "run")
    found: dict[str, Any] = {
        name: without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else md5(path.read_bytes()).hexdigest()
        for name, path in zip(names, files, strict=True)
        if not (trained and name.startswith(PAGES))
    }
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    outs = [out for stage in lock.values() for out in stage.get("outs", ())]
    found["dvc.lock"] = {out["path"]: out["md5"] for out in outs if "results" not in out["path"]}
    if trained:
        found["dvc.lock"] = {k: v for k, v in found["dvc.lock"].items() if not k.startswith(PAGES)}
    found["names"] = sorted(names + [p.name for p in (project.folder / ".protodl").rglob("*.*")])
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def tracked(project: Project) -> list[tuple[Any, ...]]:
    """Each run of MLflow: what it is of, its status, the steps of its curve, its models."""
    database = sqlite3.connect(project.folder / "mlflow.db")
    tags: dict[str, dict[str, str]] = {}
    for run, key, value in database.execute("SELECT run_uuid, key, value FROM tags"):
        tags.setdefault(run, {})[key] = value
    ask = "SELECT step FROM metrics WHERE key = 'learning_rate' AND run_uuid = ? ORDER BY step"
    count = "SELECT count(*) FROM model_versions WHERE run_id = ?"
    found = [
        (
            *(tags[run].get(name, "") for name in ("kind", "row", "seed")),
            status,
            [step for (step,) in database.execute(ask, [run])],
            database.execute(count, [run]).fetchone()[0],
        )
        for run, status in database.execute("SELECT run_uuid, status FROM runs")
    ]
    database.close()
    return sorted(found)


def alive_in(folder: Path) -> list[str]:
    """The processes at work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until(
    process: "subprocess.Popen[bytes]", folder: Path, point: Point, usual: float
) -> None:
    """Wait for the moment of a kill, or for the end of the process."""
    started = time.monotonic()
    while process.poll() is None:
        if isinstance(point.moment, str):
            if next(folder.glob(point.moment), None):
                return
        elif time.monotonic() - started > point.moment * usual and (
            "group" not in point.victim or answering(process, point.command)
        ):
            return
        time.sleep(0.005)


def below(process: "subprocess.Popen[bytes]", word: str) -> list[psutil.Process]:
    """The processes below one, if it is alive, whose command has this word."""
    found = []
    try:
        for each in psutil.Process(process.pid).children(recursive=True):
            if word in " ".join(each.cmdline()):
                found.append(each)
    except psutil.NoSuchProcess:
        pass
    return found


def answering(process: "subprocess.Popen[bytes]", command: str) -> bool:
    """Whether a stage, or a command of the project itself, has begun and answers signals."""
    try:
        own = command in OWN
        found = [psutil.Process(process.pid)] if own else below(process, "stages.")
        return any(time.time() - each.create_time() > 1.5 for each in found)
    except psutil.NoSuchProcess:
        return False


def kill(process: "subprocess.Popen[bytes]", victim: str) -> None:
    if process.poll() is not None:
        return
    if victim.startswith("group by "):
        os.killpg(process.pid, signal.Signals[victim.split()[-1]])
    elif victim == "first by SIGTERM":
        process.terminate()
    elif victim == "first" or not (found := below(process, WORDS[victim])):
        process.kill()
    else:
        if victim == "all":
            process.kill()
        for each in found if victim == "all" else found[:1]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue


WORDS = {"all": "", "stage": "stages.", "dvc": "quiet_dvc"}


@pytest.fixture(autouse=True)
def _sigint_is_heard() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("point", points(), ids=str)
def test_after_a_kill_the_same_command_ends_as_if_nothing_had_been(
    point: Point, states: States, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    usual, command = states[point.command], COMMANDS[point.command]
    project = usual.before.copy(tmp_path / "project")
    process = project.start(tmp_path / "output", *command)
    wait_until(process, project.folder, point, usual.seconds)
    # DVC itself dies of SIGTERM and SIGHUP without a word, and its stage may be done before it
    # notices.
    told = point.command in OWN or point.victim == "group by SIGINT"
    answers = told and answering(process, point.command)
    kill(process, point.victim)
    killed = time.monotonic()
    status = process.wait(LONGEST_SECONDS)
    record_property("seconds until its end", time.monotonic() - killed)
    # At once: what is left of the first one may still be at work.
    record_property("seconds of the next command", finish(project, command))

    end = time.monotonic() + 30
    while left := alive_in(project.folder):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    said = (tmp_path / "output").read_text()
    assert "Traceback" not in said, said
    if status and answers and " by " in point.victim:
        # Whoever has done its work ends without a word, with status 0; DVC has its own ones.
        words = ("the same command goes on", "exited with -", "interrupted by the user")
        assert any(each in said for each in words), said
    after = outcome(project, point.command)
    assert {k: v for k, v in after.items() if v != usual.after.get(k)} == {}
    assert after.keys() == usual.after.keys()
    runs = tracked(project)
    if TRACKING:
        assert runs == usual.runs
    shutil.rmtree(project.folder)
