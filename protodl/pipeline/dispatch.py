"""Seeds trained on a cluster: a queue that is told when one is over, and the store filled."""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from protodl.core.files import write_bytes
from protodl.core.training_log import EpochRecord
from protodl.pipeline.cluster import ClusterError, Nodes, end_process, joined, only, reason_of
from protodl.pipeline.progress import Progress, say
from protodl.pipeline.seeds import Seed, resources
from protodl.training.away import Word, train_away
from protodl.training.row import CHECKPOINT
from protodl.training.trainer import TrainingError

FAILURES = 3  # of one seed by itself; the death of its node is none
POLL_SECONDS = 1.0
SILENCE_SECONDS = 300.0  # a training says something every few seconds


class End(Enum):
    """What has become of a seed."""

    FINISHED = "its log and its networks are in the checkpoint store"
    STOPPED = "its listener wanted no more of it; its last checkpoint is in the store"
    FAILED = "it diverged, or failed several times"
    LEFT = "another process of this machine is at it"


@dataclass(frozen=True)
class Listener:
    """What is called, in the process that asks, while seeds are trained.

    `on_epoch` says whether the training goes on. The epoch from which it went on, after a node's
    death, may come twice. `on_end` comes once for each seed, with the reason where one failed.
    """

    on_epoch: Callable[[Seed, EpochRecord], bool] = lambda seed, record: True
    on_end: Callable[[Seed, End, str], None] = lambda seed, end, reason: None


@dataclass
class Running:
    """A seed on a node, which is locked for other processes of this machine."""

    seed: Seed
    node: str
    words: Any  # Ray's stream of references to Word
    lock: FileLock
    heard: float = field(default_factory=time.monotonic)
    process: int = 0  # 0: not begun


def train_seeds(
    seeds: Iterable[Seed], address: str, listener: Listener, epoch_seconds: Mapping[str, float]
) -> None:
    """Train seeds on a Ray cluster, into the checkpoint store.

    Args:
        seeds: a sequence, or an iterator of which the next one is taken when a node has room for
            it. All of them ask for what the first one asks for.
        address: host:port of the cluster, or `auto`.
        listener: is told of each epoch, and of the end of each seed.
        epoch_seconds: of an epoch of a row, where that is known.

    Raises:
        ClusterError: the cluster cannot be used, or the store cannot be written.
        ConfigError: PROTODL_GPU_SHARE is no share.
    """
    source = iter(seeds)
    waiting = deque(source if isinstance(seeds, Sequence) else islice(source, 1))
    if not waiting:
        return
    with joined(address):
        queue = Queue(waiting, source, listener, epoch_seconds)
        try:
            queue.run()
        finally:
            queue.close()


class Queue:
    """Seeds that wait for room on a node, and those that are trained."""

    def __init__(
        self,
        waiting: deque[Seed],
        source: Iterator[Seed],
        listener: Listener,
        epoch_seconds: Mapping[str, float],
    ) -> None:
        """`waiting`: at least one; `source`: those that follow."""
        import ray

        first = waiting[0].request
        asked = resources(first.params)
        # With a GPU, Ray ends a process after its training: CUDA remembers which GPU it had.
        given = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0)}
        self._task = ray.remote(**given, memory=asked["memory"])(train_away)
        self._data: dict[Path, Any] = {}
        self._waiting, self._source, self._exhausted = waiting, source, False
        self._running, self._over = list[Running](), 0
        self._listener, self._progress = listener, Progress(epoch_seconds)
        self._nodes = Nodes(asked, first.variables, first.sources, say)

    def run(self) -> None:
        """Train all.

        Raises:
            ClusterError: no node can train, or the store cannot be written.
        """
        while self._waiting or self._running or not self._exhausted:
            self._nodes.look()
            self._start()
            self._listen()
            self._give_up()
            running = [each.seed for each in self._running]
            self._progress.tell(self._over, running, self._waiting, self._nodes.room)

    def close(self) -> None:
        """Let others have what this process had locked."""
        self._progress.close()
        for each in self._running:
            each.lock.release()

    def _start(self) -> None:
        """Give waiting seeds to the nodes that have room, the emptiest first."""
        free = dict(self._nodes.room)
        for each in self._running:
            if each.node in free:
                free[each.node] -= 1
        while any(count > 0 for count in free.values()) and (seed := self._next()):
            node = max(free, key=lambda name: (free[name] > 0 and name != seed.avoided, free[name]))
            if (running := self._begin(seed, node)) is not None:
                self._running.append(running)
                free[node] -= 1

    def _next(self) -> Seed | None:
        if self._waiting:
            return self._waiting.popleft()
        seed = next(self._source, None)
        self._exhausted = seed is None
        return seed

    def _end(self, seed: Seed, end: End, reason: str = "") -> None:
        self._over += 1
        self._listener.on_end(seed, end, reason)

    def _begin(self, seed: Seed, node: str) -> Running | None:
        """Start a seed from its checkpoint; None where another process has it or had it."""
        seed.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(seed.folder / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            say(f"{seed.request.title}: left to the process that is at it already")
            self._end(seed, End.LEFT)
            return None
        Path(lock.lock_file).write_text(str(os.getpid()))
        if seed.finished:
            lock.release()
            self._end(seed, End.FINISHED)
            return None
        checkpoint = seed.folder / CHECKPOINT
        before = checkpoint.read_bytes() if checkpoint.exists() else b""
        task = self._task.options(
            label_selector=only([node]),
            num_returns="streaming",
            max_retries=0,  # a new try begins where the last one was, which only this side knows
        )
        files = (self._stored(path) for path in (seed.data, seed.teacher))
        return Running(seed, node, task.remote(seed.request, *files, before), lock)

    def _stored(self, path: Path) -> Any:
        """A file in Ray's object store, once for all trainings; empty where there is none."""
        import numpy as np
        import ray

        if path not in self._data:
            content = np.fromfile(path, np.uint8) if path.exists() else np.empty(0, np.uint8)
            self._data[path] = ray.put(content)
        return self._data[path]

    def _listen(self) -> None:
        """Take what the trainings say and what they bring."""
        import ray

        streams = {each.words: each for each in self._running}
        if not streams:
            time.sleep(POLL_SECONDS)
            return
        ray.wait(list(streams), timeout=POLL_SECONDS)
        for each in streams.values():
            try:
                while ray.wait([each.words], timeout=0)[0]:
                    word = ray.get(next(each.words), timeout=POLL_SECONDS * 30)
                    if not self._hear(each, word):
                        ray.cancel(each.words, force=False)
                        self._leave(each)
                        self._end(each.seed, End.STOPPED)
                        break
            except StopIteration:
                self._leave(each)
                self._end(each.seed, End.FINISHED)
            except ray.exceptions.RayError as error:
                self._lost(each, error)

    def _hear(self, running: Running, word: Word) -> bool:
        """Keep what a training brings; whether it is to go on.

        Raises:
            ClusterError: the store cannot be written.
        """
        seed, record = running.seed, word.record
        running.heard, running.process = time.monotonic(), word.process
        try:
            for name, content in word.files.items():  # the log last: then the seed is finished
                write_bytes(content, seed.folder / name)
        except OSError as error:
            remedy = "make room" if error.errno == errno.ENOSPC else "mend that"
            raise ClusterError(
                f"{seed.folder}: {os.strerror(error.errno or errno.EIO)}; {remedy} and run the "
                "same command again, which goes on from what is done"
            ) from error
        if record is None:
            return True
        seed.epoch = record.epoch
        self._progress.epoch_seconds[seed.request.row] = record.seconds
        return self._listener.on_epoch(seed, record)

    def _lost(self, running: Running, error: BaseException) -> None:
        """A training has come to nothing: on from its checkpoint, or its row fails."""
        import ray

        self._leave(running)
        seed, reason = running.seed, reason_of(error)
        seed.avoided = running.node
        if full := isinstance(getattr(error, "cause", None), OSError):
            self._nodes.refuse(running.node, reason)  # it would fail one training after another
        seed.failures += not (full or isinstance(error, ray.exceptions.NodeDiedError))
        if isinstance(error, TrainingError) or seed.failures == FAILURES:
            say(f"{seed.request.title}: failed: {reason}")
            self._end(seed, End.FAILED, reason)
            return
        say(f"{seed.request.title}: goes on elsewhere after epoch {seed.epoch}: {reason}")
        self._waiting.appendleft(seed)

    def _leave(self, running: Running) -> None:
        self._running.remove(running)
        running.lock.release()

    def _give_up(self) -> None:
        """Start elsewhere what says nothing any more, or waits on a node that is gone."""
        import ray

        for each in list(self._running):
            silent = time.monotonic() - each.heard
            gone = not each.process and each.node not in self._nodes.room
            if silent < SILENCE_SECONDS and not gone:
                continue
            ray.cancel(each.words, force=True)
            if each.process:
                end_process(each.node, each.process)
            each.seed.failures -= not each.process  # that it found no room is not its failure
            self._lost(each, TimeoutError(f"no word for {silent:.0f} s"))
