"""The journal of a search: what Optuna has proposed, what came of it, and what it proposes next."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from protodl.core.errors import ProtodlError
from protodl.core.experiment_config import Experiment
from protodl.core.params_file import merge
from protodl.core.search import Outcome, Search, State, TrialRecord, as_in, nested, value_of
from protodl.core.training_log import EpochRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

AGREEMENT = "decode_agreement"  # Optuna's name of the constraint
STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
STREAM = 100_000  # between the seeds of two searches' samplers, so that no trial's is another's


class SearchError(ProtodlError):
    """A search that cannot go on; the message says what to do."""


def require_optuna() -> Any:
    """The package Optuna, which says no more than its warnings.

    Raises:
        SearchError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SearchError(
            "protodl search needs Optuna, which is not installed; run "
            "`pip install 'protodl[search]'`"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def alone(path: Path, name: str) -> Iterator[None]:
    """Inside, no other process is at the search whose journal this is.

    Raises:
        SearchError: one is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise SearchError(
            f"search {name}: another process is at it already; wait for that one, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Journal:
    """Optuna's study in its journal; one process at a time."""

    def __init__(self, path: Path, study: str, search: Search, row: Experiment) -> None:
        """Open the journal and the study in it, or begin them.

        Args:
            path: the journal.
            study: its name, another one for all that makes other trials.
            search: what is searched.
            row: with the row's own values, and the epochs of a trial.

        Raises:
            SearchError: Optuna is not installed, or the journal is damaged.
        """
        optuna = require_optuna()
        self._search, self._row = search, row
        pruner = optuna.pruners.NopPruner()
        if rule := search.pruning:
            pruner = optuna.pruners.MedianPruner(rule.trials, n_warmup_steps=rule.epochs)
        _repair(path)
        try:
            backend = optuna.storages.journal.JournalFileBackend(str(path))
            storage = optuna.storages.JournalStorage(backend)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SearchError(
                f"{path}: cannot be read ({error}); delete it and run the same command again: "
                "trainings that are finished are not repeated"
            ) from error
        self._study = optuna.create_study(
            study_name=study,
            storage=storage,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        default = {key: each.entry(value_of(row, key)) for key, each in search.space.items()}
        if not self._study.get_trials() and None not in default.values():
            self._study.enqueue_trial(default)

    @property
    def begun(self) -> int:
        """How many trials there are, those that go on included."""
        return sum(each.state.name != "WAITING" for each in self._trials())

    def unfinished(self) -> "list[Trial]":
        """Trials that a process that was ended has left, as it left them."""
        from optuna.trial import Trial

        left = [each for each in self._trials() if each.state.name == "RUNNING"]
        return [Trial(self._study, each._trial_id) for each in left]  # pinned: no public name

    def ask(self) -> "Trial":
        """The next trial; which values it gets depends on those before it and on its number."""
        from optuna.samplers import TPESampler

        seed = STREAM * self._search.sampler_seed + self.begun
        self._study.sampler = TPESampler(seed=seed % 2**32)
        return self._study.ask()

    def values(self, trial: "Trial") -> dict[str, Any]:
        """What a trial tries, by key."""
        found = {key: self._value(trial, key) for key in self._search.space}
        trial.set_user_attr("values", found)
        return found

    def _value(self, trial: "Trial", key: str) -> Any:
        values, row = self._search.space[key], self._row
        if values.choices is not None:
            return trial.suggest_categorical(key, values.choices)
        low, high = as_in(row, key, values.low), as_in(row, key, values.high)
        if isinstance(low, int):
            step = int(values.step or 1)
            return trial.suggest_int(key, low, high, step=step, log=values.log)
        number = trial.suggest_float(key, low, high, step=values.step, log=values.log)
        return as_in(row, key, number)

    def report(self, trial: "Trial", record: EpochRecord) -> bool:
        """Tell what an epoch reached; whether the trial is to be given up after it."""
        if record.epoch not in self._of(trial).intermediate_values:
            trial.report(record.validation["accuracy"], record.epoch)
        return record.epoch < self._row.epochs and trial.should_prune()

    def tell(self, trial: "Trial", state: State, outcome: Outcome) -> None:
        """Finish a trial: `complete`, `pruned` or `failed`."""
        from optuna.trial import TrialState

        trial.set_user_attr("outcome", outcome.model_dump())
        if outcome.decode_agreement is not None and not self._of(trial).constraints:
            lacking = self._search.decode_agreement - outcome.decode_agreement
            trial.set_constraint(AGREEMENT, lacking)
        kind = next(name for name, ours in STATES.items() if ours == state)
        self._study.tell(trial, outcome.accuracy, TrialState[kind])

    def records(self) -> list[TrialRecord]:
        """The trials that are over."""
        return [self._record(each) for each in self._trials() if each.state.name in STATES]

    def _record(self, trial: "FrozenTrial") -> TrialRecord:
        values, state = trial.user_attrs["values"], STATES[trial.state.name]
        lacking = trial.constraints.values()
        start, end = trial.datetime_start, trial.datetime_complete
        assert start and end
        return TrialRecord(
            number=trial.number,
            state=state,
            values=values,
            parameters=merge(self._row.model_dump(), nested(values)),
            feasible=state == "complete" and all(each <= 0 for each in lacking),
            outcome=Outcome.model_validate(trial.user_attrs["outcome"]),
            start_ms=round(1000 * start.timestamp()),
            end_ms=round(1000 * end.timestamp()),
        )

    def _trials(self) -> "list[FrozenTrial]":
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _of(self, trial: "Trial") -> "FrozenTrial":
        return self._trials()[trial.number]


def _repair(path: Path) -> None:
    """Take away what a kill has left: Optuna's lock, and the half of a line at the end."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
