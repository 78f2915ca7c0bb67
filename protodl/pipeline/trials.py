"""The trials of a search, then the best one beside the default: trainings of the store."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from protodl.core.config import Params
from protodl.core.experiment_config import Experiment
from protodl.core.files import load_tensors
from protodl.core.mistakes import explain
from protodl.core.search import Outcome, Search, SeedResult, Side, State, with_values
from protodl.core.training_log import EpochRecord, SeedLog
from protodl.evaluation.trial import TrialExaminer
from protodl.network.checkpoint import load_network
from protodl.pipeline.dispatch import FAILURES, End, Listener
from protodl.pipeline.journal import Journal, SearchError
from protodl.pipeline.seeds import Seed, seeds_of
from protodl.training.row import CHECKPOINT, FINISHED

if TYPE_CHECKING:
    from optuna.trial import Trial

Train = Callable[[Iterable[Seed], Listener], None]  # the next seed is taken when there is room


@dataclass
class _Going:
    """A trial whose trainings go on."""

    trial: "Trial"
    row: Experiment
    seeds: list[Seed]
    histories: dict[Path, list[EpochRecord]]  # of each seed, by its folder

    @property
    def first(self) -> Path:
        """Folder of the seed by which it is pruned."""
        return self.seeds[0].folder


class Trials:
    """Asks for trials, has them trained, and tells what came of them."""

    def __init__(
        self,
        root: Path,
        params: Params,
        search: Search,
        journal: Journal,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what is there.

        Args:
            root: the project's folder, with the row's data.
            params: the project's.
            search: what is searched.
            journal: its own.
            changed: called whenever a trial is over.
        """
        self._root, self._params, self._search = root, params, search
        self._journal, self._changed = journal, changed
        self._row = params.experiment(search.row)
        data = root / "data" / self._row.dataset / "train.pt"
        self._examiner = TrialExaminer(data, params.training)
        self._going: dict[Path, _Going] = {}  # by the folders of their seeds
        self._failures = 0  # of trials after each other, by what they ran on

    def run(self, number: int, train: Train) -> None:
        """Make trials until there are so many.

        Raises:
            SearchError: trials fail whatever their values, or another process is at one of them.
        """
        train(self._wanted(number), Listener(self._heard, self._over))

    def compare(
        self, values: Mapping[str, Any], train: Train
    ) -> tuple[dict[Side, list[SeedResult]], list[str]]:
        """Train the row with these values and its own, on fresh seeds; also why seeds failed."""
        rows: dict[Side, Experiment] = {
            "winner": with_values(self._row, values),
            "default": self._row,
        }
        of = {
            side: row_seeds(self._root, self._params, self._search, row, self._search.fresh_seeds)
            for side, row in rows.items()
        }
        failed: list[str] = []

        def over(seed: Seed, end: End, reason: str) -> None:
            side = next(side for side, seeds in of.items() if seed in seeds)
            if end is not End.FINISHED:
                failed.append(f"{side}, seed {seed.request.seed}: {reason or end.value}")
            outcome = "trained" if end is End.FINISHED else failed[-1]
            print(f"comparison: {side}, seed {seed.request.seed}: {outcome}", flush=True)

        pairs = [seed for pair in zip(*of.values(), strict=True) for seed in pair]
        train([seed for seed in pairs if not seed.finished], Listener(on_end=over))
        return {
            side: [self._result(seed, rows[side]) for seed in seeds if seed.finished]
            for side, seeds in of.items()
        }, failed

    def _wanted(self, number: int) -> Iterator[Seed]:
        """The seeds to be trained, the next one when it is asked for."""
        for trial in self._journal.unfinished():
            yield from self._begin(trial)
        while self._journal.begun < number and not self._is_spent():
            yield from self._begin(self._journal.ask())

    def _is_spent(self) -> bool:
        spent = sum(each.outcome.seconds for each in self._journal.records())
        return self._search.minutes is not None and spent >= 60 * self._search.minutes

    def _begin(self, trial: "Trial") -> Iterator[Seed]:
        """What is to be trained for a trial; what the store knows of it is told first."""
        values = {**self._journal.values(trial), "epochs": self._search.epochs}
        try:
            row = with_values(self._row, values)
        except ValidationError as error:
            reason = explain(Experiment, error.errors()[0])
            self._tell(trial, "failed", Outcome(reason=reason))
            return
        seeds = row_seeds(self._root, self._params, self._search, row, self._search.seeds)
        if twin := next((self._going[s.folder] for s in seeds if s.folder in self._going), None):
            reason = f"its values are those of trial {twin.trial.number}, which goes on"
            self._tell(trial, "failed", Outcome(reason=reason))
            return
        going = _Going(trial, row, seeds, {seed.folder: [] for seed in seeds})
        self._going |= dict.fromkeys(going.histories, going)
        for seed in seeds:
            if not all(self._heard(seed, record) for record in kept_history(seed)):
                return
        self._complete(going)
        for seed in seeds:
            if seed.folder in self._going and not seed.finished:
                yield seed

    def _heard(self, seed: Seed, record: EpochRecord) -> bool:
        """Take an epoch; whether the training is to go on."""
        going = self._going.get(seed.folder)
        if going is None:  # another seed of its trial has ended it
            return False
        history = going.histories[seed.folder]
        if record.epoch <= len(history):
            return True
        history.append(record)
        if seed.folder == going.first and self._journal.report(going.trial, record):
            self._finish(going, "pruned", Outcome())
            return False
        return True

    def _over(self, seed: Seed, end: End, reason: str) -> None:
        """Take the end of a training."""
        going = self._going.get(seed.folder)
        if end is End.LEFT:
            raise SearchError(f"{seed.request.title}: {end.value}; run this command again then")
        if going is None:
            return
        if end is End.FINISHED:
            self._complete(going)
        elif end is End.FAILED:
            self._failures = self._failures + 1 if seed.failures == FAILURES else 0
            if self._failures == FAILURES:
                raise SearchError(
                    f"{FAILURES} trials after each other failed, and not by diverging; the last "
                    f"one: {reason}; mend that and run the same command again, which goes on"
                )
            self._finish(going, "failed", Outcome(reason=reason))

    def _complete(self, going: _Going) -> None:
        """Measure a trial and finish it, if its trainings are finished."""
        if not all(seed.finished for seed in going.seeds):
            return
        self._failures = 0
        results = [self._result(seed, going.row) for seed in going.seeds]
        outcome = Outcome(
            accuracy=fmean(each.accuracy for each in results),
            decode_agreement=fmean(each.decode_agreement for each in results),
            environment=results[0].environment,
        )
        self._finish(going, "complete", outcome)

    def _result(self, seed: Seed, row: Experiment) -> SeedResult:
        network = load_network(seed.folder / "network.pt")
        (seed.folder / CHECKPOINT).unlink(missing_ok=True)  # two thirds of all, of no more use
        measured, log = self._examiner.measure(network, row.loss), log_of(seed)
        return SeedResult(
            seed=seed.request.seed,
            accuracy=measured.accuracy,
            decode_agreement=measured.decode_agreement,
            seconds=log.train_seconds,
            environment=log.environment,
        )

    def _finish(self, going: _Going, state: State, outcome: Outcome) -> None:
        for folder in going.histories:
            del self._going[folder]
        epochs = [record for history in going.histories.values() for record in history]
        known = {
            "history": going.histories[going.first],
            "seconds": sum(record.seconds for record in epochs),
            "fingerprints": [seed.request.fingerprint for seed in going.seeds],
        }
        self._tell(going.trial, state, outcome.model_copy(update=known))

    def _tell(self, trial: "Trial", state: State, outcome: Outcome) -> None:
        self._journal.tell(trial, state, outcome)
        self._changed()


def row_seeds(
    root: Path, params: Params, search: Search, row: Experiment, seeds: Sequence[int]
) -> list[Seed]:
    """The search's row with these parameters, as seeds to train."""
    # An epoch's checkpoint is what a search that was killed goes on from.
    training = params.training.model_copy(update={"checkpoint_every": 1})
    change = {"experiments": {search.row: row}, "seeds": [*seeds], "training": training}
    return list(seeds_of(root, params.model_copy(update=change), [search.row]))


def log_of(seed: Seed) -> SeedLog:
    """The log of a finished seed."""
    return SeedLog.read(
        seed.folder / FINISHED, f"delete the folder {seed.folder} to train it again"
    )


def kept_history(seed: Seed) -> list[EpochRecord]:
    """The epochs of a training that are in the store.

    Raises:
        ResultsError, CheckpointError: its log or its checkpoint is damaged.
    """
    if seed.finished:
        return log_of(seed).history
    checkpoint = seed.folder / CHECKPOINT
    if not checkpoint.exists():
        return []
    state = load_tensors(checkpoint, "delete it to train from the start")
    return [EpochRecord(**record) for record in json.loads(state["history"])]
