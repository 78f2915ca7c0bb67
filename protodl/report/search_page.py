"""The page of a recipe search, in Markdown: its best trials, the best one beside the default."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from protodl.core.search import SearchRecord, SeedResult, TrialRecord
from protodl.evaluation.measures import MEASURES
from protodl.report.tables import NONE, definition, format_seconds, hardware, markdown_table

ACCURACY, AGREEMENT, SECONDS = (
    MEASURES[name] for name in ("validation_accuracy", "decode_agreement", "train_seconds")
)
SHOWN = 10  # trials
POINTS = 100  # of a share


def search_page(record: SearchRecord, command: str) -> str:
    """The page of a search whose trials are over."""
    return "\n\n".join(_parts(record, command)) + "\n"


def _parts(record: SearchRecord, command: str) -> Iterator[str]:
    settings = record.settings
    yield f"# Search: {record.name}"
    yield (
        f"Optuna proposed values of {len(settings['space'])} parameters of the row {record.row}, "
        f"and each trial was trained for {settings['epochs']} epochs ({_seeds(settings['seeds'])})."
        " Trials are compared by the accuracy on the validation images; the test split was not"
        " read."
    )
    yield f"**{conclusion(record)}**"
    if record.comparison:
        yield f"## Winner and default, {record.epochs} epochs, {_seeds(settings['fresh_seeds'])}"
        yield _comparison(record)
    yield f"## The {min(SHOWN, len(record.ranked()))} best trials"
    yield _best(record)
    shown = (ACCURACY, AGREEMENT)
    yield "\n".join(f"- {definition(each.heading, each.meaning)}" for each in shown)
    if record.block:
        yield "## The winner, as a block of params.yaml"
        yield f"```yaml\n{record.block}```"
    yield "## How it was made"
    yield "\n".join(f"- {line}" for line in _facts(record, command))


def conclusion(record: SearchRecord) -> str:
    """What came of a search, in a sentence."""
    if record.best is None:
        return "No trial was completed that keeps the constraint."
    best = record.trial(record.best)
    if best.values == record.default:
        return f"No trial was better than the default, which was trial {best.number}."
    winner, default = (record.comparison[side] for side in ("winner", "default"))
    if len(winner) < 2 or len(default) < 2:
        return "The comparison is of too few seeds to speak of a spread."
    ours, theirs = ([each.accuracy for each in side] for side in (winner, default))
    difference, spread = fmean(ours) - fmean(theirs), max(stdev(ours), stdev(theirs))
    words = (
        "better than the default by more than the spread over the seeds"
        if difference > spread
        else "no better than the default beyond the spread over the seeds"
        if difference > -spread
        else "worse than the default by more than the spread over the seeds"
    )
    return (
        f"Trial {best.number} won, and on fresh seeds it is {words}: "
        f"{POINTS * difference:+.2f} points of validation accuracy, spread {POINTS * spread:.2f}."
    )


def _comparison(record: SearchRecord) -> str:
    cells = [[side, *_means(found)] for side, found in record.comparison.items() if found]
    table = markdown_table(["row", *(m.heading for m in (ACCURACY, AGREEMENT, SECONDS))], cells)
    note = "Mean ± standard deviation over the seeds."
    failed = "".join(f"\n\nFailed: {reason}." for reason in record.failures)
    return f"{table}\n\n{note}{failed}"


def _means(found: Sequence[SeedResult]) -> list[str]:
    accuracies = [each.accuracy for each in found]
    spread = f" ± {ACCURACY.text(stdev(accuracies))}" if len(found) > 1 else ""
    return [
        ACCURACY.text(fmean(accuracies)) + spread,
        AGREEMENT.text(fmean(each.decode_agreement for each in found)),
        SECONDS.text(fmean(each.seconds for each in found)),
    ]


def _best(record: SearchRecord) -> str:
    shown = record.ranked()[:SHOWN]
    rows = [_trial(each, record) for each in shown]
    if all(each.values != record.default for each in shown):
        rows.append(["default", NONE, NONE, *map(_shown, record.default.values())])
    return markdown_table(["trial", ACCURACY.heading, AGREEMENT.heading, *record.default], rows)


def _trial(trial: TrialRecord, record: SearchRecord) -> list[str]:
    name = f"{trial.number} (default)" if trial.values == record.default else str(trial.number)
    accuracy, agreement = trial.outcome.accuracy or 0.0, trial.outcome.decode_agreement or 0.0
    values = [_shown(trial.values[key]) for key in record.default]
    return [name, ACCURACY.text(accuracy), AGREEMENT.text(agreement), *values]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _facts(record: SearchRecord, command: str) -> Iterator[str]:
    settings, states = record.settings, Counter(each.state for each in record.trials)
    counts = ", ".join(f"{states[state]} {state}" for state in ("complete", "pruned", "failed"))
    yield f"`{command}`"
    yield f"{len(record.trials)} trials: {counts}"
    least = POINTS * settings["decode_agreement"]
    refused = states["complete"] - len(record.ranked())
    if least:
        yield f"constraint: a decode agreement of at least {least:.0f} %; {refused} lacked it"
    compared = sum(each.seconds for found in record.comparison.values() for each in found)
    trials = format_seconds(record.seconds - compared)
    yield f"compute: {trials} of training for the trials, {format_seconds(compared)} for the rest"
    yield f"Optuna's TPE sampler, seed {settings['sampler_seed']}; study {record.fingerprint}"
    found = [each.environment for side in record.comparison.values() for each in side]
    found += [each.outcome.environment for each in record.trials if each.outcome.environment]
    yield hardware(found)
    for trial in record.trials:
        if trial.state == "failed":
            yield f"trial {trial.number} failed: {trial.outcome.reason}"
