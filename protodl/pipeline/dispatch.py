"""Seeds that the checkpoint store lacks, trained on a cluster: a queue, and the store filled."""

import errno
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from protodl.core.config import Params
from protodl.core.files import write_bytes
from protodl.pipeline.cluster import ClusterError, Nodes, end_process, joined, only, reason_of
from protodl.pipeline.forecast import makespan, training_seconds
from protodl.pipeline.missing import Seed, missing_seeds, resources
from protodl.report.tables import format_seconds
from protodl.training.away import Word, train_away
from protodl.training.row import CHECKPOINT, FINISHED
from protodl.training.trainer import TrainingError

FAILURES = 3  # of one seed by itself; the death of its node is none
POLL_SECONDS = 1.0
SAY_SECONDS = 30.0  # between two lines on what is running, outside of a terminal
SILENCE_SECONDS = 300.0  # a training says something every few seconds


@dataclass
class Running:
    """A seed on a node, which is locked for other processes of this machine."""

    seed: Seed
    node: str
    words: Any  # Ray's stream of references to Word
    lock: FileLock
    heard: float = field(default_factory=time.monotonic)
    process: int = 0  # 0: not begun


def train_missing(root: Path, params: Params, rows: Sequence[str], address: str) -> dict[str, str]:
    """Train every seed of these rows that the checkpoint store lacks, on a Ray cluster.

    Args:
        root: the project's folder, with the data of these rows.
        params: params.yaml.
        rows: the rows, in the order in which they are to begin.
        address: host:port of the cluster, or `auto`.

    Returns:
        For each row of which a seed failed the reason; its other seeds are in the store.

    Raises:
        ClusterError: the cluster cannot be used, or the store cannot be written.
        ConfigError: PROTODL_GPU_SHARE is no share.
    """
    seeds = list(missing_seeds(root, params, rows))
    if not seeds:
        return {}
    with joined(address):
        queue = Queue(root, params, seeds)
        try:
            return queue.run()
        finally:
            queue.close()


class Queue:
    """Seeds that wait for room on a node, and those that are trained."""

    def __init__(self, root: Path, params: Params, seeds: Sequence[Seed]) -> None:
        import ray
        from tqdm import tqdm

        first = seeds[0].request
        asked = resources(first.params.training)
        # With a GPU, Ray ends a process after its training: CUDA remembers which GPU it had.
        given = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0)}
        self._task = ray.remote(**given)(train_away)
        self._data: dict[Path, Any] = {}
        self._waiting, self._running = deque(seeds), list[Running]()
        self._total, self._failed = len(seeds), dict[str, str]()
        self._nodes = Nodes(asked, first.variables, first.sources, self._say)
        each = {row: training_seconds(root, params, row) for row in params.experiments}
        self._epoch_seconds = {
            row: seconds / len(params.seeds) / params.experiment(row).epochs
            for row, seconds in each.items()
            if seconds
        }
        self._bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty())
        self._said = time.monotonic()

    def run(self) -> dict[str, str]:
        """Train all; returns the reason for each row of which a seed failed.

        Raises:
            ClusterError: no node can train, or the store cannot be written.
        """
        while self._waiting or self._running:
            self._nodes.look()
            self._start()
            self._listen()
            self._give_up()
            self._tell()
        return self._failed

    def close(self) -> None:
        """Let others have what this process had locked."""
        self._bar.close()
        for each in self._running:
            each.lock.release()

    def _say(self, text: str) -> None:
        self._bar.write(text)
        sys.stdout.flush()

    def _start(self) -> None:
        """Give waiting seeds to the nodes that have room, the emptiest first."""
        free = dict(self._nodes.room)
        for each in self._running:
            if each.node in free:
                free[each.node] -= 1
        while self._waiting and any(count > 0 for count in free.values()):
            seed = self._waiting.popleft()
            node = max(free, key=lambda name: (free[name] > 0 and name != seed.avoided, free[name]))
            if (running := self._begin(seed, node)) is not None:
                self._running.append(running)
                free[node] -= 1

    def _begin(self, seed: Seed, node: str) -> Running | None:
        """Start a seed from its checkpoint; None where another process has it or had it."""
        import numpy as np
        import ray

        seed.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(seed.folder / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            self._say(f"{seed.request.title}: left to the process that is at it already")
            return None
        Path(lock.lock_file).write_text(str(os.getpid()))
        if (seed.folder / FINISHED).exists():
            lock.release()
            return None
        if seed.data not in self._data:
            self._data[seed.data] = ray.put(np.fromfile(seed.data, np.uint8))
        checkpoint = seed.folder / CHECKPOINT
        before = checkpoint.read_bytes() if checkpoint.exists() else b""
        task = self._task.options(
            label_selector=only([node]),
            num_returns="streaming",
            max_retries=0,  # a new try begins where the last one was, which only this side knows
        )
        return Running(seed, node, task.remote(seed.request, self._data[seed.data], before), lock)

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
                    self._hear(each, ray.get(next(each.words), timeout=POLL_SECONDS * 30))
            except StopIteration:
                self._ended(each)
            except ray.exceptions.RayError as error:
                self._lost(each, error)

    def _hear(self, running: Running, word: Word) -> None:
        seed = running.seed
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
        if word.epoch:
            seed.epoch = word.epoch
            self._epoch_seconds[seed.request.row] = word.seconds

    def _ended(self, running: Running) -> None:
        self._leave(running)
        row = running.seed.request.row
        others = [*self._waiting, *(each.seed for each in self._running)]
        if row not in self._failed and all(each.request.row != row for each in others):
            self._say(f"{row}: trained, every seed is in the checkpoint store")

    def _lost(self, running: Running, error: BaseException) -> None:
        """A training has come to nothing: on from its checkpoint, or its row fails."""
        import ray

        self._leave(running)
        seed, reason = running.seed, reason_of(error)
        seed.failures += not isinstance(error, ray.exceptions.NodeDiedError)
        if isinstance(error, TrainingError) or seed.failures == FAILURES:
            self._failed[seed.request.row] = f"seed {seed.request.seed}: {reason}"
            self._say(f"{seed.request.title}: failed: {reason}")
            return
        self._say(f"{seed.request.title}: goes on elsewhere after epoch {seed.epoch}: {reason}")
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
            seed = each.seed
            seed.avoided = each.node
            seed.failures -= not each.process  # that it found no room is not its failure
            self._lost(each, TimeoutError(f"no word for {silent:.0f} s"))

    def _tell(self) -> None:
        """Say what is running: in a terminal always, else every half minute."""
        terminal = not self._bar.disable
        if not terminal and time.monotonic() - self._said < SAY_SECONDS:
            return
        self._said = time.monotonic()
        left = [*self._waiting, *(each.seed for each in self._running)]
        rows = self._epoch_seconds
        seconds = [
            rows[each.request.row] * (each.epochs - each.epoch)
            for each in left
            if each.request.row in rows
        ]
        places = sum(self._nodes.room.values())
        eta = f", ETA {format_seconds(makespan(seconds, places))}" if seconds else ""
        now = [f"{r.seed.request.title} {r.seed.epoch}/{r.seed.epochs}" for r in self._running]
        more = f" and {len(now) - 4} more" if len(now) > 4 else ""
        running = f": {', '.join(now[:4])}{more}" if now else ""
        text = (
            f"{self._total - len(left)} of {self._total} trainings over, {len(now)} running on "
            f"{len(self._nodes.room)} nodes{eta}{running}"
        )
        if terminal:
            self._bar.set_description_str(text)
        else:
            self._say(text)
