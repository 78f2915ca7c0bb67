"""The command as a user meets it: a real process, its exit status and what it says."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import protodl
from protodl.core.config import load_params
from tests import warm

ROOT = Path(__file__).parents[1]
ROWS = list(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["experiments"])
ROW = ROWS[0]


def run(
    folder: Path, *command: str, module: str = "protodl.cli"
) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    environment |= {**warm.environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [warm.python(), "-m", module, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the project's own dvc.yaml and params.yaml."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def change(project: Path, path: str, value: object) -> None:
    """Set a key of params.yaml, given as parts between slashes; None removes it."""
    *sections, key = path.split("/")
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    section = params
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    if value is None:
        del section[key]
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


# What is changed in params.yaml, and what the message must name: key, value, remedy.
MISTAKES = {
    "unknown key": (
        f"experiments/{ROW}/optimizer/lrr",
        0.1,
        [f"experiments.{ROW}.optimizer.lrr", "0.1", "unknown key", "did you mean 'lr'"],
    ),
    "negative weight": (
        f"experiments/{ROW}/loss/r1",
        -1,
        [f"experiments.{ROW}.loss.r1", "-1", "greater than or equal to 0"],
    ),
    "no rows": ("experiments", {}, ["experiments", "at least 1"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_any_work(project: Path, mistake: str) -> None:
    path, value, words = MISTAKES[mistake]
    change(project, path, value)

    answer = run(project, "check")

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: params.yaml: ")
    for word in words:
        assert word in answer.stderr
    assert "Traceback" not in answer.stderr


def test_all_mistakes_are_told_at_once(project: Path) -> None:
    change(project, f"experiments/{ROW}/loss/r1", -1)
    change(project, "training/devise", "cpu")
    message = run(project, "check").stderr
    assert f"experiments.{ROW}.loss.r1" in message
    assert "training.devise" in message


@pytest.mark.parametrize("text", ["seeds: [0", "a: b: c", "just words", "seeds: [0]\nseeds: [1]"])
def test_a_file_that_is_not_the_yaml_it_should_be(project: Path, text: str) -> None:
    (project / "params.yaml").write_text(text, encoding="utf-8")
    answer = run(project, "check")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: params.yaml: ")
    assert "Traceback" not in answer.stderr


def test_without_params(project: Path) -> None:
    (project / "params.yaml").unlink()
    answer = run(project, "check")
    assert answer.returncode == 1
    assert "params.yaml: cannot be read" in answer.stderr


def test_outside_of_a_project(tmp_path: Path) -> None:
    answer = run(tmp_path, "check")
    assert answer.returncode == 1
    assert "no dvc.yaml" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_run_checks_first_and_names_the_nearest_row(project: Path) -> None:
    answer = run(project, "run", ROW[:-1])
    assert answer.returncode == 1
    assert f"did you mean {ROW!r}" in answer.stderr
    change(project, f"experiments/{ROW}/loss/r1", -1)
    answer = run(project, "run", "-j", "2")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert not (project / "data").exists()


@pytest.mark.parametrize("arguments", [["run", "-j", "0"], ["run", "-j", "two"], ["rnu"], []])
def test_wrong_usage(project: Path, arguments: list[str]) -> None:
    answer = run(project, *arguments)
    assert answer.returncode == 2
    assert "usage: protodl" in answer.stderr


def test_the_version_is_that_of_the_package(project: Path) -> None:
    assert run(project, "--version").stdout == f"protodl {protodl.__version__}\n"


def test_quiet_leaves_errors_only(project: Path) -> None:
    assert run(project, "--quiet", "check").stdout == ""
    (project / "params.yaml").write_text("seeds: nothing\n")
    answer = run(project, "-q", "check")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "seeds" in answer.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_are_told_what_to_complete(project: Path, shell: str) -> None:
    script = run(project, "--print-completion", shell).stdout
    assert "explain" in script and "--as-is" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_help_and_check_load_nothing_heavy(project: Path) -> None:
    for command in (["--help"], ["check"]):
        probe = (
            "import sys; from protodl.cli import main\n"
            f"try: main({command!r})\nexcept SystemExit: pass\n"
            "print(sorted({'torch', 'mlflow', 'dvc', 'matplotlib', 'numpy'} & set(sys.modules)))"
        )
        answer = subprocess.run(
            [sys.executable, "-c", probe],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.splitlines()[-1] == "[]"


def test_the_check_stage_writes_the_same_for_every_valid_file(project: Path) -> None:
    arguments = ("--params", "params.yaml", "--output", "data/params.ok")
    started = time.monotonic()
    assert run(project, *arguments, module="stages.check").returncode == 0
    assert time.monotonic() - started < 10  # a fraction of a second on an idle machine
    before = (project / "data" / "params.ok").read_bytes()

    change(project, f"experiments/{ROW}/epochs", 7)
    assert run(project, *arguments, module="stages.check").returncode == 0
    assert (project / "data" / "params.ok").read_bytes() == before

    change(project, f"experiments/{ROW}/epochs", 0)
    answer = run(project, *arguments, module="stages.check")
    assert answer.returncode == 1
    assert re.match(rf"error: params.yaml: experiments.{ROW}.epochs = 0: ", answer.stderr)


@pytest.mark.faults
@pytest.mark.parametrize(("encoding", "then"), [("ascii", "cat"), ("utf-8", "head -n 1")])
def test_the_table_reaches_any_terminal_and_any_reader(encoding: str, then: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = f"{sys.executable} -m protodl.cli table | {then}"
    answer = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert answer.stderr == ""
    assert answer.stdout
    assert ("\\xb1" in answer.stdout) == (encoding == "ascii")


def test_the_committed_params_are_valid() -> None:
    assert list(load_params(ROOT / "params.yaml").experiments) == ROWS
