"""A Ray cluster: joining or starting one, and which of its nodes may train for this table.

Ray is looked for only when a cluster is asked for.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from protodl.core.errors import ProtodlError
from protodl.core.limits import available_cpus
from protodl.core.process import answering, interrupt
from protodl.training.away import describe_machine

AUTO = "auto"
CONNECT_SECONDS, HEALTH_SECONDS = 5.0, 20.0
LOOK_SECONDS = 2.0  # between two looks at which nodes there are
ANSWER_SECONDS = 120.0  # for a node to say what it is, which imports torch there
# Nothing is sent to Ray's makers, and nothing is served: a cluster needs no web page to compute.
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of the other value
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the name is Ray's; nodes on 127.0.0.1


class ClusterError(ProtodlError):
    """A cluster that is not there or cannot be used; the message says what to do."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Inside, this process belongs to the cluster; `auto` starts one here where none runs.

    Raises:
        ClusterError: Ray is not installed, nothing answers at the address, or Ray refuses.
    """
    os.environ.update(VARIABLES)
    try:
        import ray
    except ImportError:
        raise ClusterError(
            "--on needs Ray, which is not installed; run `pip install 'protodl[cluster]'` (Python "
            "3.11 to 3.13), on each node of the cluster too"
        ) from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    found = _find(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if found is None:
        os.environ.update(LOOPBACK)
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # the same, once Ray is imported
        options |= {"num_cpus": available_cpus(), "include_dashboard": False}
    try:
        ray.init(found or "local", **options)
    except Exception as error:  # Ray raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ClusterError(
            f"--on {address}: Ray cannot be used ({reason}); start this command on a node of the "
            "cluster, with the Python and the Ray that its nodes have"
        ) from error
    try:
        with answering(interrupt):  # Ray has put its own handlers in place of these
            yield
    finally:
        ray.shutdown()


def _find(address: str) -> str | None:
    """The host:port of the cluster that is meant; None where one is to be started."""
    from ray._private.services import canonicalize_bootstrap_address  # pinned: no public name

    try:
        found: str | None = canonicalize_bootstrap_address(address)
        if found is None:
            return None
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        _check_health(found)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        if address == AUTO:
            return None
        reason = (
            error
            if isinstance(error, OSError | ValueError)
            else "no head of this Ray, or not with this token"
        )
        raise ClusterError(
            f"--on {address}: no Ray cluster answers there ({reason}); give host:port of its "
            "head, as `ray start --head` prints it, or `auto`"
        ) from None
    return found


def _check_health(address: str) -> None:
    """Ask whether a head of Ray is there; Ray itself would wait for minutes for one that hangs.

    Raises:
        subprocess.SubprocessError: there is none, or it does not know this user's token.
    """
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )

    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(ask, capture_output=True, check=True, timeout=HEALTH_SECONDS)
    except subprocess.CalledProcessError:
        # A head that `ray start` has started where a token lies wants it, which Ray does not try.
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise
        subprocess.run(ask, capture_output=True, check=True, timeout=HEALTH_SECONDS)


@dataclass
class Nodes:
    """The nodes that have room and are like this machine; others are refused with a line.

    `asked` is what a training takes, by Ray's names: {"CPU": 1, "GPU": 0.5}.
    """

    asked: Mapping[str, float]
    variables: Mapping[str, str]
    sources: Sequence[str]
    say: Callable[[str], None]
    room: dict[str, int] = field(default_factory=dict)  # trainings at once, by the node's id
    _asking: dict[str, tuple[Any, float]] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)
    _looked: float = -LOOK_SECONDS

    def __post_init__(self) -> None:
        """Describe this machine, with which the others are compared."""
        self._wanted = describe_machine(self.variables, self.sources)
        self._accepted = False

    def look(self) -> None:
        """See which nodes have come, gone, or answered.

        Raises:
            ClusterError: no node was ever fit to train.
        """
        import ray

        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self.room = {name: count for name, count in self.room.items() if name in alive}
        self._asking = {name: ask for name, ask in self._asking.items() if name in alive}
        for name, node in alive.items():
            known = name in self.room or name in self._asking or name in self._refused
            if not known and _slots(node["Resources"], self.asked):
                self._asking[name] = (self._ask(name), time.monotonic())
        for name, (answer, since) in list(self._asking.items()):
            if ray.wait([answer], timeout=0)[0]:
                self._judge(alive[name], answer)
            elif time.monotonic() - since > ANSWER_SECONDS:
                self._refuse(alive[name], "does not answer")
        self._accepted = self._accepted or bool(self.room)
        if not self._accepted and not self._asking:
            raise ClusterError(self._why_none(list(alive.values())))

    def _ask(self, name: str) -> Any:
        import ray

        options = {"num_cpus": 0, "max_retries": 0, "label_selector": only([name])}
        return ray.remote(describe_machine).options(**options).remote(self.variables, self.sources)

    def _judge(self, node: Mapping[str, Any], answer: Any) -> None:
        import ray

        try:
            found = ray.get(answer, timeout=CONNECT_SECONDS)
        except Exception as error:
            self._refuse(node, f"cannot run protodl: {reason_of(error)}")
            return
        other = [
            f"{name} is {found[name]}, here {wanted}"
            for name, wanted in self._wanted.items()
            if found[name] != wanted
        ]
        if other:
            self._refuse(node, "; ".join(other))
            return
        del self._asking[node["NodeID"]]
        self.room[node["NodeID"]] = _slots(node["Resources"], self.asked)

    def _refuse(self, node: Mapping[str, Any], reason: str) -> None:
        del self._asking[node["NodeID"]]
        self._refused[node["NodeID"]] = reason
        self.say(f"node {node['NodeManagerAddress']} is refused: {reason}")

    def _why_none(self, nodes: Sequence[Mapping[str, Any]]) -> str:
        if self._refused:
            return (
                "no node is like this machine, so results would mix (the reasons stand above); "
                "give all nodes the same protodl, torch and kind of processor, and start here"
            )
        asked = " and ".join(f"{count:g} {name}" for name, count in self.asked.items())
        most = {name: max(n["Resources"].get(name, 0) for n in nodes) for name in self.asked}
        has = " and ".join(f"{count:g} {name}" for name, count in most.items())
        return (
            f"a training asks for {asked}, and no node has more than {has}; set training.threads "
            "or PROTODL_THREADS (GPU: training.device, PROTODL_GPU_SHARE) to what a node has"
        )


def only(names: Sequence[str]) -> dict[str, str]:
    """Ray's way to say: on one of these nodes."""
    return {"ray.io/node-id": f"in({','.join(names)})"}


def _slots(resources: Mapping[str, float], asked: Mapping[str, float]) -> int:
    return int(min(resources.get(name, 0) / count for name, count in asked.items()))


def reason_of(error: BaseException) -> str:
    """What went wrong on a node, in one line."""
    text = str(getattr(error, "cause", None) or error).strip() or type(error).__name__
    return text.partition("\n")[0]


def end_process(node: str, process: int) -> None:
    """Kill a worker that does not answer, by a task on its node; one that is gone is no error."""
    import ray

    options = {"num_cpus": 0, "max_retries": 0, "label_selector": only([node])}
    with suppress(Exception):
        ray.wait([ray.remote(_kill).options(**options).remote(process)], timeout=CONNECT_SECONDS)


def _kill(process: int) -> None:
    import signal

    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
