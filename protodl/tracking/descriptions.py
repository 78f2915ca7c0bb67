"""What MLflow shows in words: descriptions of seeds' runs and of registered models, Markdown."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from protodl.core.training_log import SeedEvaluation, SeedFacts, SeedLog
from protodl.data.datasets import DATASETS
from protodl.evaluation.measures import TABLES, measures
from protodl.tracking.datasets import PAGES
from protodl.tracking.views import EPOCHS, UNITS, shown

MAX_LENGTH = 5000  # of a description, or another tag, on any server
NOTE = "mlflow.note.content"  # tag that MLflow shows as the description


class Alias(NamedTuple):
    """An alias of a registered model, and what stands behind it; accuracies are shares."""

    name: str
    run: str  # link to the run of the seed
    validation_accuracy: float
    test_accuracy: float | None  # of this seed; None where it was not measured


def shortened(markdown: str) -> str:
    """A text that fits into a description, cut at the end of a line where it is too long."""
    if len(markdown) <= MAX_LENGTH:
        return markdown
    kept = markdown[: MAX_LENGTH - 10].rpartition("\n")[0]
    return f"{kept}\n\n(…)"


def picture(run_id: str, path: str, words: str) -> str:
    """A picture among the files of a run, as it is shown in a description."""
    return f"![{words}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})"


def link_to_run(experiment_id: str, run_id: str, words: str) -> str:
    """A link to a run of the same server."""
    return f"[{words}](#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning)"


def data_set(name: str) -> str:
    """The title of a data set, as a link to its makers where they are known."""
    title = DATASETS[name].title if name in DATASETS else name
    return f"[{title}]({PAGES[name]})" if name in PAGES else title


def training_note(facts: SeedFacts) -> str:
    """Description of a seed's run from its start on."""
    prototypes = facts.parameters.get("model", {}).get("num_prototypes")
    count = f" with {prototypes} prototypes" if prototypes else ""
    return (
        f"Row **{facts.row}**, seed {facts.seed}: a prototype network{count}, trained on "
        f"{facts.num_train:,} images of {data_set(facts.dataset)}; {facts.num_validation:,} others "
        "choose the epoch that is kept. *Model metrics* has the learning curves, and pictures with "
        "a slider: decoded prototypes, and validation images with their reconstructions."
    )


def evaluation_note(log: SeedLog, evaluation: SeedEvaluation, pictures: Sequence[str]) -> str:
    """Description of a seed's run once it is evaluated: key figures first, and its pictures."""
    numbers = evaluation.metrics
    figures = [f"{name} **{text}**" for name, text in shown(numbers).items() if name != EPOCHS]
    figures.append(f"epoch {log.selected_epoch} of {log.num_epochs} kept")
    units = {unit: words.replace(" ", "&nbsp;") for unit, words in UNITS.items()}
    rows = [
        f"| {each.title} | {each.text(numbers[each.name])}{units[each.unit]} | {each.meaning} |"
        for each in measures(*TABLES)
        if each.name in numbers
    ]
    table = "\n".join(["| measure | value | meaning |", "|:--|--:|:--|", *rows])
    files = "*Artifacts* has the confusions on test images and the facts of each prototype."
    first = f"Measured: {', '.join(figures)}."
    return shortened("\n\n".join([first, training_note(log), *pictures, table, files]))


def registered_note(dataset: str, explains: bool, aliases: Sequence[Alias]) -> str:
    """Description of a registered model; `aliases` in the order in which they are listed."""
    answer = "a prediction with its reasons" if explains else "the probabilities of its classes"
    words = (
        f"Prototype networks for images of {data_set(dataset)}: images in, {answer} out, without "
        "this project's code. A version is one seed of a row. An alias is the best seed of the row "
        "of that name, and `champion` of all rows, by validation accuracy."
    )
    rows = [
        f"| `{alias}` | {run} | {_percent(validation)} | {_percent(tested)} |"
        for alias, run, validation, tested in aliases
    ]
    head = ["| alias | trained as | validation accuracy | test accuracy |", "|:--|:--|--:|--:|"]
    return shortened("\n\n".join([words, *(["\n".join([*head, *rows])] if rows else [])]))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
