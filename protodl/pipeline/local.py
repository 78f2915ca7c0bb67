"""Seeds trained on this machine, each in a process of its own: without Ray what `dispatch` does."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from protodl.core.training_log import EpochRecord
from protodl.pipeline.dispatch import FAILURES, End, Listener
from protodl.pipeline.seeds import Seed
from protodl.training.here import Failure, train_process

STOP_SECONDS = 5.0  # for a process that is told to end


@dataclass
class _Child:
    seed: Seed
    place: int
    process: SpawnProcess
    words: Connection
    failure: Failure | None = None


def train_seeds_here(
    seeds: Iterable[Seed], environments: Sequence[Mapping[str, str]], listener: Listener
) -> None:
    """Train seeds on this machine, into the checkpoint store.

    Args:
        seeds: of which the next one is taken when there is room for it.
        environments: of the processes; there are as many at once.
        listener: is told of each epoch, and of the end of each seed.
    """
    pool = _Pool(iter(seeds), environments, listener)
    try:
        pool.run()
    finally:
        pool.close()


class _Pool:
    def __init__(
        self, source: Iterator[Seed], environments: Sequence[Mapping[str, str]], listener: Listener
    ) -> None:
        self._source, self._environments, self._listener = source, environments, listener
        self._children: dict[Connection, _Child] = {}

    def run(self) -> None:
        self._fill()
        while self._children:
            for words in wait([*self._children]):
                assert isinstance(words, Connection)
                self._hear(self._children[words])
            self._fill()

    def close(self) -> None:
        """End all trainings after their last epochs that are in the store."""
        for child in [*self._children.values()]:
            self._stop(child)

    def _fill(self) -> None:
        places = range(len(self._environments))
        while free := {*places} - {child.place for child in self._children.values()}:
            if (seed := next(self._source, None)) is None:
                return
            self._begin(seed, min(free))

    def _begin(self, seed: Seed, place: int) -> None:
        context = get_context("spawn")
        words, told = context.Pipe(duplex=False)
        variables = {**seed.request.variables, **self._environments[place]}
        arguments = (seed.request, variables, seed.data, seed.teacher, seed.folder, told)
        process = context.Process(target=train_process, args=arguments, daemon=True)
        process.start()
        told.close()
        self._children[words] = _Child(seed, place, process, words)

    def _hear(self, child: _Child) -> None:
        """Take a word of a training, or its end."""
        try:
            word: EpochRecord | Failure = child.words.recv()
        except (EOFError, OSError):  # the latter: within a word
            self._ended(child)
            return
        if isinstance(word, Failure):
            child.failure = word
        elif not self._listener.on_epoch(child.seed, word):
            self._stop(child)
            self._listener.on_end(child.seed, End.STOPPED, "")

    def _ended(self, child: _Child) -> None:
        self._leave(child)
        if child.seed.finished:
            self._listener.on_end(child.seed, End.FINISHED, "")
            return
        reason = f"its process ended with status {child.process.exitcode}"
        failure = child.failure or Failure(reason, diverged=False)
        if not failure.diverged:
            child.seed.failures = FAILURES  # another try would find the same machine
        self._listener.on_end(child.seed, End.FAILED, failure.reason)

    def _stop(self, child: _Child) -> None:
        child.process.terminate()
        self._leave(child)

    def _leave(self, child: _Child) -> None:
        del self._children[child.words]
        child.process.join(STOP_SECONDS)
        child.process.kill()
