"""Other people's machines: odd paths, no git, no user, no locks, another system's line ends."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from protodl.pipeline.quiet_dvc import give_what_is_missing, obstacle
from protodl.tracking.store import open_current
from tests.pipeline.project import ROOT, Project

pytestmark = pytest.mark.faults
ODD = "50%41 off, #1? für Łódź"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's DVC folder, without git."""
    (tmp_path / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    return tmp_path


def test_without_git_it_is_said_what_to_do(project: Path) -> None:
    told = obstacle(project)
    assert told is not None
    assert "git init" in told and "core.no_scm true" in told
    (project / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    assert obstacle(project) is None
    (project / ".dvc" / "config.local").unlink()
    (project / ".git").write_text("gitdir: elsewhere\n")  # a work tree's, or a submodule's
    assert obstacle(project) is None


def test_a_run_without_git_stops_with_that_sentence(project: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, project / name)
    done = Project(project).run("protodl.cli", "run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "git init" in line


def test_a_disk_without_locks_is_named_and_not_waited_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_arguments: object) -> None:
        raise OSError(37, "No locks available")

    (project / ".git").mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    told = obstacle(project)
    assert told is not None
    assert "core.hardlink_lock true" in told
    (project / ".dvc" / "config.local").write_text("[core]\n    hardlink_lock = true\n")
    assert obstacle(project) is None


def test_another_process_s_lock_is_no_obstacle(project: Path) -> None:
    (project / ".git").mkdir()
    with (project / ".dvc" / "config").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert obstacle(project) is None


def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "")
    give_what_is_missing()
    assert os.environ["USER"] == f"user-{os.getuid()}"


def test_dvc_s_caches_go_where_this_user_may_write(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project / "fine"))
    give_what_is_missing()
    assert os.environ["DVC_SITE_CACHE_DIR"] == str(project / "fine")
    monkeypatch.setattr(os, "access", lambda *_: False)
    give_what_is_missing()
    assert os.environ["DVC_SITE_CACHE_DIR"] == str(project / ".dvc" / "tmp" / "site-cache")


def test_a_checkout_with_another_system_s_line_ends_has_the_same_bytes(tmp_path: Path) -> None:
    """DVC compares bytes: with others every stage would run again."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    names = ["protodl/cli.py", "dvc.yaml", "data/sample/FashionMNIST/LICENSE", ".ci/run"]
    names += [f"data/sample/{name}" for name in ("cifar-10-batches-py/data_batch_1",)]
    for name in (".gitattributes", *names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    own = Project(source)
    own.git("init", "-q")
    own.commit()
    windows = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", *windows, "clone", "-q", str(source), str(copy)], check=True)
    assert all((copy / name).read_bytes() == (ROOT / name).read_bytes() for name in names)


def test_the_store_is_in_the_project_whatever_its_path(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"100%25 {ODD}"
    folder.mkdir()
    (folder / "dvc.yaml").touch()
    shutil.copy(migrated_database, folder / "mlflow.db")
    for variable in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(folder)
    store = open_current()
    store.client.log_text(store.client.create_run(store.experiment_id).info.run_id, "a", "b.txt")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert len(list((folder / "mlartifacts").rglob("b.txt"))) == 1
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_a_row_is_computed_in_a_work_tree_with_an_odd_name(
    tmp_path: Path, migrated_database: Path
) -> None:
    """Shallow, in a terminal that knows ASCII only, by a user who has no home."""
    origin = Project.create(tmp_path / "origin")
    shallow = ["git", "clone", "-q", "--depth", "1", f"file://{origin.folder}"]
    subprocess.run([*shallow, str(tmp_path / "shallow")], check=True)
    Project(tmp_path / "shallow").git("worktree", "add", "-q", str(tmp_path / ODD), "-b", "odd")
    project = Project(tmp_path / ODD)
    shutil.copy(migrated_database, project.folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONIOENCODING": "ascii", "HOME": "/proc"}.items():
            patch.setenv(name, value)
        done = project.run("protodl.cli", "run", "grey")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| grey" in done.stdout
    assert "warning" not in done.stderr.lower()
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (
            2,
        )
    assert {path.name for path in tmp_path.iterdir()} == {"origin", "shallow", ODD}
