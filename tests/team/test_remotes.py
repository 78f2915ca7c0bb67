"""DVC remotes: what one machine has computed is on another one without a training."""

import asyncio
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest
from mlflow import MlflowClient

from tests.pipeline.project import Project, stages_run
from tests.team.parts import SECRETS, missing, on_loopback

OUTS = ("models", "data", "report", "results/rows/grey/explanations")  # not in git


class Remote:
    """Where DVC pushes to, and what each machine keeps to itself of it."""

    def __init__(self, address: str, **secrets: str) -> None:
        self.address, self.secrets = address, secrets

    def add(self, project: Project) -> None:
        project.dvc("remote", "add", "-d", "team", self.address)
        self.unlock(project)

    def unlock(self, project: Project) -> None:
        for name, value in self.secrets.items():
            project.dvc("remote", "modify", "--local", "team", name, value)


@contextmanager
def folder(path: Path) -> Iterator[Remote]:
    yield Remote(str(path / "remote"))


@contextmanager
def ssh(path: Path) -> Iterator[Remote]:
    """An SSH server with SFTP, whose key the user's known_hosts has."""

    class Server(asyncssh.SSHServer):
        def begin_auth(self, _username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("anna", "hunter2")

    key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def listen() -> "asyncssh.SSHAcceptor":
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Server, server_host_keys=[key], sftp_factory=True
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    home = path / "home"
    (home / ".ssh").mkdir(parents=True)
    port, public = server.get_port(), key.export_public_key().decode()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            yield Remote(f"ssh://anna@127.0.0.1:{port}{path}/remote", password="hunter2")
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)


@contextmanager
def s3(_path: Path) -> Iterator[Remote]:
    """The S3-compatible store of deploy/compose.yaml."""
    with on_loopback("s3", "bucket") as parts:
        keys = {"access_key_id": "mlflow", "secret_access_key": SECRETS["S3_SECRET_KEY"]}
        yield Remote("s3://mlflow/dvc", endpointurl=parts.address("s3"), **keys)


KINDS = {"folder": folder, "ssh": ssh, "s3": s3}
# Libraries leave the sockets of their loops to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SLOW = [pytest.mark.faults, pytest.mark.slow]
OTHERS = [pytest.param(kind, marks=SLOW) for kind in ("ssh", "s3")]


@pytest.fixture(name="clone", params=["folder", *OTHERS])
def _clone(request: pytest.FixtureRequest, computed: Project, tmp_path: Path) -> Iterator[Project]:
    """A colleague's clone of a project that was pushed, before anything is pulled."""
    if request.param == "s3" and (lacking := missing("s3")):
        pytest.skip(f"this machine lacks {', '.join(lacking)}")
    with KINDS[request.param](tmp_path) as remote:
        source = computed.copy(tmp_path / "source")
        remote.add(source)
        source.commit()
        source.dvc("push", "dvc.yaml")
        assert not re.search("password|key", source.git_output("show", "HEAD:.dvc/config"))
        subprocess.run(["git", "clone", "-q", source.folder, tmp_path / "clone"], check=True)
        shutil.rmtree(source.folder)
        clone = Project(tmp_path / "clone")
        remote.unlock(clone)
        yield clone


def test_a_clone_pulls_what_was_pushed(clone: Project, computed: Project) -> None:
    clone.dvc("pull", "dvc.yaml")
    for out in OUTS:
        files = contents(computed.folder / out)
        assert files
        assert contents(clone.folder / out) == files


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("clone", ["folder"], indirect=True)
def test_a_clone_has_everything_without_a_training(
    clone: Project, computed: Project, migrated_database: Path
) -> None:
    study = clone.folder / "studies" / "small"
    study.mkdir(parents=True)
    (study / "dvc.yaml").write_text("stages: {never: {cmd: 'true', outs: [nothing]}}\n")
    clone.commit()
    assert clone.run_dvc("pull").returncode != 0  # it asks for what nobody has run
    clone.dvc("pull", "dvc.yaml")
    assert clone.dvc("status", "dvc.yaml").strip() == "folders:\n\talways changed"
    assert stages_run(clone.dvc("repro", "dvc.yaml:report")) == set()
    shutil.copy(migrated_database, clone.folder / "mlflow.db")
    done = clone.run("protodl.cli", "sync")
    assert done.stdout.splitlines()[-1] == "2 runs created in MLflow", done.stdout + done.stderr
    tables = [clone.run("protodl.cli", "table", *more).stdout for more in ([], ["--from-mlflow"])]
    assert "| grey" in tables[0]
    assert tables[0] == tables[1]
    models = MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}").search_registered_models()
    assert sorted(each.name for each in models) == [
        f"protodl-{name}" for name in ("cifar10", "cifar10-explained", "mnist", "mnist-explained")
    ]
    explained = clone.run("protodl.cli", "explain", "grey", "--test", "0")
    assert explained.returncode == 0, explained.stderr
    assert list((clone.folder / "explanations" / "grey").glob("*.png"))
    for name in ("results/rows/grey/pictures", "results/cards"):  # these come by git
        assert contents(clone.folder / name) == contents(computed.folder / name)
    assert clone.git_output("status", "--short") == ""
