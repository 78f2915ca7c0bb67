"""A Ray cluster: joining or starting one, and which of its nodes may train for this table.

Ray is looked for only when a cluster is asked for.
"""

import logging
import os
import signal
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
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(found or "local", **options)
    except Exception as error:  # Ray raises many kinds
        reason = " ".join(str(error).split())  # it has the versions below one another
        raise ClusterError(
            f"--on {address}: Ray cannot be used ({reason}); start this command on a node of the "
            "cluster, with the Python and the Ray that its nodes have"
        ) from error
    try:
        with answering(interrupt):  # Ray has put its own handlers in place of these
            yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


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

    `asked` is what a training takes, by Ray's names: {"CPU": 1, "GPU": 0.5, "memory": 2**30}.
    """

    asked: Mapping[str, float]
    variables: Mapping[str, str]
    sources: Sequence[str]
    say: Callable[[str], None]
    room: dict[str, int] = field(default_factory=dict)  # trainings at once, by the node's id
    _alive: dict[str, Mapping[str, Any]] = field(default_factory=dict)
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
            ClusterError: no node was ever fit to train, or the last one has been refused.
        """
        import ray

        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._alive = alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self.room = {name: count for name, count in self.room.items() if name in alive}
        self._asking = {name: ask for name, ask in self._asking.items() if name in alive}
        for name, node in alive.items():
            known = name in self.room or name in self._asking or name in self._refused
            if not known and slots(node["Resources"], self.asked):
                self._asking[name] = (self._ask(name), time.monotonic())
        for name, (answer, since) in list(self._asking.items()):
            if ray.wait([answer], timeout=0)[0]:
                self._judge(name, answer)
            elif time.monotonic() - since > ANSWER_SECONDS:
                self.refuse(name, "does not answer")
        self._accepted = self._accepted or bool(self.room)
        if not self._accepted and not self._asking:
            raise ClusterError(self._why_none())

    def refuse(self, name: str, reason: str) -> None:
        """Give this node no training any more."""
        for known in (self.room, self._asking):
            known.pop(name, None)
        self._refused[name] = reason
        self._accepted = bool(self.room)
        address = self._alive[name]["NodeManagerAddress"] if name in self._alive else name
        self.say(f"node {address} is refused: {reason}")

    def _ask(self, name: str) -> Any:
        import ray

        options = {"num_cpus": 0, "max_retries": 0, "label_selector": only([name])}
        return ray.remote(describe_machine).options(**options).remote(self.variables, self.sources)

    def _judge(self, name: str, answer: Any) -> None:
        import ray

        try:
            found = ray.get(answer, timeout=CONNECT_SECONDS)
        except Exception as error:
            self.refuse(name, f"cannot run protodl: {reason_of(error)}")
            return
        other = [
            f"{fact} is {found[fact]}, here {wanted}"
            for fact, wanted in self._wanted.items()
            if found[fact] != wanted
        ]
        if other:
            self.refuse(name, "; ".join(other))
            return
        del self._asking[name]
        self.room[name] = slots(self._alive[name]["Resources"], self.asked)

    def _why_none(self) -> str:
        if self._refused:
            return (
                "no node can be used (the reasons stand above): other results would mix with this "
                "machine's; give all nodes the same protodl, torch and kind of processor, and room "
                "on their disks, and start the same command again here"
            )
        has = [node["Resources"] for node in self._alive.values()]
        most = {name: max(each.get(name, 0) for each in has) for name in self.asked}
        return (
            f"a training asks for {_words(self.asked)}, and no node has more than {_words(most)}; "
            "set training.threads or PROTODL_THREADS (GPU: training.device, PROTODL_GPU_SHARE) to "
            "what a node has; what it gives of its memory, `ray start --memory` says"
        )


def only(names: Sequence[str]) -> dict[str, str]:
    """Ray's way to say: on one of these nodes."""
    return {"ray.io/node-id": f"in({','.join(names)})"}


def slots(resources: Mapping[str, float], asked: Mapping[str, float]) -> int:
    """How many trainings find room at once; one does not take shares of two GPUs."""
    shares = {name: int(1 / count) for name, count in asked.items() if name == "GPU"}
    return min(
        int(resources.get(name, 0)) * shares[name]
        if name in shares
        else int(resources.get(name, 0) / count)
        for name, count in asked.items()
    )


def _words(resources: Mapping[str, float]) -> str:
    """`1 CPU and 3 GiB of memory`."""
    return " and ".join(
        f"{count / 2**30:.3g} GiB of memory" if name == "memory" else f"{count:g} {name}"
        for name, count in resources.items()
    )


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
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
