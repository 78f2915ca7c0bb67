"""What deploy/compose.yaml starts, as processes on loopback: its commands with other addresses."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SECRETS = {  # each with what a shell, an address or a YAML file could stumble over
    "POSTGRES_PASSWORD": "of db's: 1/2@#%41",
    "S3_SECRET_KEY": "of s3/+= $HOME",
    "ADMIN_PASSWORD": "of the admin: 'x' \"y\"",
    "SERVER_SECRET_KEY": "of the server",
}
SECONDS = 400  # until a part is well; processors may be busy
GROUPS = ("master", "volume", "filer", "s3")  # parts of SeaweedFS, each with two ports
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's


def _postgres(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([*map(str, POSTGRES[::-1]), os.environ["PATH"]]))


def missing(*services: str) -> list[str]:
    """What this machine lacks of the parts."""
    wanted: dict[str, dict[str, object]] = {
        "db": {"PostgreSQL": _postgres("initdb")},
        "s3": {"SeaweedFS (weed)": shutil.which("weed"), "boto3": find_spec("boto3")},
        "mlflow": {name: find_spec(name) for name in ("psycopg2", "flask_wtf")},
    }
    return [name for each in services for name, found in wanted[each].items() if not found]


def compose(values: dict[str, str]) -> dict[str, Any]:
    """The services of the compose file with its variables; ValueError where one must be set."""

    def value(found: "re.Match[str]") -> str:
        name, kind, words = found.groups()
        if not values.get(name) and kind == ":?":
            raise ValueError(f"{name}: {words}")
        return json.dumps(values.get(name) or words)[1:-1] if kind else json.dumps(values[name])

    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    services: dict[str, Any] = yaml.safe_load(
        # In quotes, because compose reads YAML first and puts values in after that.
        re.sub(r"(?<=: )\$\{(\w+)(:[?-])([^}]*)\}", lambda m: f'"{value(m)}"', text)
    )["services"]
    return services


class Parts:
    """The parts, each on ports of its own; what they keep is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = [*(f"{each}.{kind}" for each in GROUPS for kind in ("port", "port.grpc"))]
        ports = _free_ports(len(names) + 2)
        self._weed = dict(zip(names, ports, strict=False))
        self._ports = {"8333": self._weed["s3.port"], "5432": ports[-2], "5000": ports[-1]}
        self.services = compose(SECRETS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self._ports[{'s3': '8333', 'mlflow': '5000'}[service]]}"

    def here(self, text: str) -> str:
        """A text of the compose file with the addresses and folders of this machine."""
        text = re.sub(r"\b(db|s3)(?=:\d)|(?<=-ip=)s3|0\.0\.0\.0", "127.0.0.1", text)
        text = re.sub(r"\b(5432|8333|5000)\b", lambda port: str(self._ports[port[0]]), text)
        text = text.replace("/etc/mlflow/basic_auth.ini", str(self.folder / "basic_auth.ini"))
        return text.replace("/etc/mlflow", str(DEPLOY)).replace("=/data", f"={self.folder}/s3")

    def environment(self, service: str) -> dict[str, str]:
        own = self.services[service]["environment"]
        return os.environ | {name: self.here(str(value)) for name, value in own.items()}

    def start(self, service: str) -> None:
        """Start a service by its command; wait for its health check, or for its end.

        One that ends is started again, as `restart` in the compose file has it: a database that
        was killed does not begin before the last of its old processes is gone.
        """
        command = self._prepare(service)
        self._spawn(service, command)
        if service == "bucket":
            assert self.processes.pop(service).wait(SECONDS) == 0, self.log(service)
            return
        end = time.monotonic() + SECONDS
        while not self.is_healthy(service):
            assert time.monotonic() < end, self.log(service)
            time.sleep(0.2)
            if self.processes[service].poll() is not None:
                self._spawn(service, command)

    def _spawn(self, service: str, command: list[str]) -> None:
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(service),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _prepare(self, service: str) -> list[str]:
        if service == "db":
            return self._prepare_database()
        command = shlex.split(self.here(self.services[service]["command"]))
        if service == "s3":
            (self.folder / "s3").mkdir(exist_ok=True)
            others = {name: port for name, port in self._weed.items() if name != "s3.port"}
            return ["weed", *command, *(f"-{name}={port}" for name, port in others.items())]
        ini = self.here((DEPLOY / "basic_auth.ini").read_text(encoding="utf-8"))
        (self.folder / "basic_auth.ini").write_text(ini, encoding="utf-8")
        program = {"mlflow": [sys.executable, "-m", "mlflow"], "python": [sys.executable]}
        return [*program[command[0]], *command[1:]]

    def _prepare_database(self) -> list[str]:
        """What the image of PostgreSQL does by itself: a cluster with a user and a database."""
        folder, environment = self.folder / "db", self.services["db"]["environment"]
        user, port = environment["POSTGRES_USER"], str(self._ports["5432"])
        if not folder.exists():
            folder.mkdir()
            (self.folder / "password").write_text(environment["POSTGRES_PASSWORD"])
            if os.getuid() == 0:  # whom PostgreSQL does not serve
                shutil.chown(folder, "nobody")
            words = ["--no-sync", "-A", "scram-sha-256", "-U", user, "--encoding=UTF8", "-D"]
            words += [str(folder), f"--pwfile={self.folder / 'password'}"]
            self._run([*_as_nobody(), str(_postgres("initdb")), *words])
            single = ["--single", "-D", str(folder), "postgres"]
            self._run(
                [*_as_nobody(), str(_postgres("postgres")), *single],
                f"CREATE DATABASE {environment['POSTGRES_DB']}\n",
            )
        where = ["-h", "127.0.0.1", "-p", port, "-k", str(folder), "-c", "fsync=off"]
        return [*_as_nobody(), str(_postgres("postgres")), "-D", str(folder), *where]

    def _run(self, command: list[str], given: str = "") -> None:
        done = subprocess.run(
            command, cwd=self.folder, input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def is_healthy(self, service: str) -> bool:
        check = self.here(self.services[service]["healthcheck"]["test"])
        places = [str(Path(sys.executable).parent), *map(str, POSTGRES), os.environ["PATH"]]
        environment = os.environ | {"PATH": os.pathsep.join(places)}
        done = subprocess.run(
            check, shell=True, env=environment, capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")[-3000:]

    def kill(self, service: str) -> None:
        process = self.processes.pop(service)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ask(self, path: str, user: str, password: str, content: Any = None) -> Any:
        """Send a request to MLflow as this user."""
        headers = {**signed(user, password), "Content-Type": "application/json"}
        body = json.dumps(content).encode() if content else None
        with urlopen(Request(self.address("mlflow") + path, body, headers), timeout=60) as answer:
            return json.load(answer)

    def add_user(self, name: str, password: str) -> None:
        """Give a colleague an account, as docs/team.md does."""
        own = {"username": name, "password": password}
        self.ask("/api/2.0/mlflow/users/create", "admin", SECRETS["ADMIN_PASSWORD"], own)

    def run_client(self, program: str, *arguments: str, given: bytes | None = None) -> bytes:
        """Run a program of PostgreSQL's that speaks to the database; gives its output."""
        where = ["-h", "127.0.0.1", "-p", str(self._ports["5432"]), "-U", "mlflow"]
        environment = os.environ | {"PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]}
        command = [str(_postgres(program)), *where, *arguments]
        return subprocess.run(
            command, env=environment, input=given, stdout=subprocess.PIPE, check=True
        ).stdout

    def stored(self) -> list[str]:
        """The first thousand keys in the bucket."""
        import boto3

        keys = {"aws_access_key_id": "mlflow", "aws_secret_access_key": SECRETS["S3_SECRET_KEY"]}
        own = boto3.client("s3", "us-east-1", endpoint_url=self.address("s3"), **keys)
        return [each["Key"] for each in own.list_objects_v2(Bucket="mlflow")["Contents"]]


def signed(user: str, password: str) -> dict[str, str]:
    """The header of a request by which a server knows who asks."""
    token = b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def _as_nobody() -> list[str]:
    return ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def on_loopback(*services: str) -> Iterator[Parts]:
    """These services while they are needed, started in this order; `bucket` comes to its end."""
    with tempfile.TemporaryDirectory(prefix="protodl-team-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL is another user
        parts = Parts(Path(folder))
        try:
            for service in services:
                parts.start(service)
            yield parts
        finally:
            for service in list(parts.processes):
                parts.kill(service)
