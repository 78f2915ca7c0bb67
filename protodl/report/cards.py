"""Model cards: of each row what it is, how it was made, what was measured and where it ends.

After Mitchell et al. 2019, "Model Cards for Model Reporting"; every number comes from the files.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from protodl.core.config import Params
from protodl.data.datasets import DATASETS
from protodl.report.results import ResultRow, RowFiles, load_published
from protodl.report.tables import SAMPLE_HEADING, format_seconds

RECOGNISABLE = 0.9  # share from which pictures count as what they are said to be
CONFUSIONS = 3  # pairs of classes that are named


class Measure(NamedTuple):
    """A number of metrics.json as the card shows it; one that is not there is left out."""

    title: str
    meaning: str
    share: bool = True  # shown in per cent


MEASURES = {
    "test_accuracy": Measure("test accuracy", "of the test images, read for this number only"),
    "validation_accuracy": Measure("validation accuracy", "what the epoch was chosen by"),
    "decode_agreement": Measure(
        "decode agreement", "prototypes whose decoded picture the network puts into their class"
    ),
    "cycle_identity": Measure(
        "cycle identity",
        "prototypes whose decoded picture, encoded again, is nearest to themselves",
    ),
    "independent_agreement": Measure(
        "independent agreement",
        "prototypes whose decoded picture an outsider puts into their class: a plain classifier "
        "that never saw one",
    ),
    "case_agreement": Measure(
        "case agreement",
        "prototypes whose nearest training case has their class, by its label and to the outsider",
    ),
    "reconstruction_agreement": Measure(
        "reconstruction agreement", "validation images whose reconstruction is predicted the same"
    ),
    "independent_reconstruction_agreement": Measure(
        "independent reconstruction agreement", "the same, as the outsider predicts"
    ),
    "purity25": Measure(
        "purity@25", "of a prototype's 25 nearest training cases those of its class"
    ),
    "coverage": Measure("coverage", "classes that have a prototype", share=False),
    "duplicates": Measure(
        "duplicates", "pairs of prototypes of one class that nearly coincide", share=False
    ),
    "keep_3_accuracy": Measure(
        "accuracy of three", "on validation images, when only the three largest contributions count"
    ),
}


def model_card(row: ResultRow, files: RowFiles, params: Params) -> str:
    """The card of one row, as Markdown.

    Args:
        row: its line of the table.
        files: what `read_row` has read of it.
        params: params.yaml.
    """
    sections = {
        "Intended use": _use(row),
        "Use it": _commands(row, files),
        "Data and licence": _data(row, files, params),
        "Recipe": _recipe(row, params),
        "Results": _results(row, files),
        "Known limits": _items([*_limits(row, files)]),
        "Made with": _made_with(row, files),
    }
    parts = [f"# Model card: {row.row}", *([] if row.data_source == "full" else [SAMPLE_HEADING])]
    return (
        "\n\n".join([*parts, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"
    )


def _explains(files: RowFiles) -> bool:
    """Whether the row has prototypes; a baseline of the paper has none."""
    return bool(files.logs[0].parameters["model"].get("distance") != "none")


def _use(row: ResultRow) -> str:
    info = DATASETS[row.dataset]
    channels, height, width = info.shape
    return (
        f"A prototype network (Li, Liu, Chen, Rudin, AAAI 2018, arXiv:1710.04806) that puts "
        f"{info.title} images into {info.num_classes} classes by their distances to "
        f"{row.num_prototypes} prototypes. It takes float32 (N, {channels}, {height}, {width}) in "
        f"[0, 1] and answers with the probabilities of {', '.join(info.class_names)}.\n\n"
        "Made for research on explanations by resemblance, and for teaching. Not made for "
        "decisions about people or things, nor for images from another source than the data set."
    )


def _commands(row: ResultRow, files: RowFiles) -> str:
    name = f"{files.logs[0].experiment_name}-{row.dataset}"
    serve = "mlflow models serve --env-manager local -p 5050 -m"
    lines = [f"{serve} models:/{name}@{row.row}"]
    if _explains(files):
        lines += [f"{serve} models:/{name}-explained@{row.row}"]
        lines += [f"protodl explain {row.row} picture.png"]
    loaded = f'mlflow.pyfunc.load_model("models:/{name}@{row.row}").predict(images)'
    shell = "\n".join(lines)
    return f"```\n{shell}\n```\n\nIn Python: `{loaded}`. All of it from the project's folder."


def _data(row: ResultRow, files: RowFiles, params: Params) -> str:
    log = files.logs[0]
    tested = sum(map(sum, files.evaluations[0].confusion))
    share = log.num_validation / (log.num_train + log.num_validation)
    return (
        f"{DATASETS[row.dataset].title}: {log.num_train:,} images trained on; "
        f"{log.num_validation:,} training images ({100 * share:.1f} %) held out for every choice, "
        f"stratified, split seed {params.training.split_seed}; {tested:,} test images, read by the "
        f"evaluate stage only. MD5 of the training file: `{log.data_digest}`. Code: MIT licence. "
        "The images keep their own terms: `data/README.md`."
    )


def _recipe(row: ResultRow, params: Params) -> str:
    experiment = params.experiment(row.row)
    model, optimizer = experiment.model, experiment.optimizer
    weights = experiment.loss.model_dump(exclude={"reconstruction_norm"})
    items = [
        f"Network: {model.architecture} encoder, {model.decoder} decoder, {model.num_prototypes} "
        f"prototypes, distance `{model.distance}`.",
        f"Loss: {_listed(weights)}.",
        f"Optimizer: {optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule}; "
        f"{experiment.epochs} epochs, batch {experiment.batch_size}.",
        f"Augmentation: {_listed(experiment.augment.model_dump(exclude={'elastic_sigma'}))}.",
        f"Everything: `params.yaml`, key `experiments.{row.row}`.",
    ]
    return _items(items)


def _listed(values: Mapping[str, Any]) -> str:
    """What is not switched off."""
    on = [name if value is True else f"{name} {value:g}" for name, value in values.items() if value]
    return ", ".join(on) or "none"


def _results(row: ResultRow, files: RowFiles) -> str:
    mean, std = files.metrics.mean, files.metrics.std
    lines = [
        f"| {measure.title} | {_value(measure, mean[name], std[name], row.num_seeds)} "
        f"| {measure.meaning} |"
        for name, measure in MEASURES.items()
        if name in mean
    ]
    seeds, epochs = (", ".join(map(str, numbers)) for numbers in (row.seeds, row.selected_epochs))
    over = f"seeds {seeds}, mean ± standard deviation" if row.num_seeds > 1 else f"seed {seeds}"
    table = "\n".join(["| measure | value | meaning |", "|:--|--:|:--|", *lines])
    return f"Of {over}; epochs chosen: {epochs} of {row.num_epochs}.\n\n{table}{_published(row)}"


def _value(measure: Measure, mean: float, std: float, num_seeds: int) -> str:
    if not measure.share:
        return f"{mean:.3g}"
    spread = f" ± {100 * std:.2f}" if num_seeds > 1 else ""
    return f"{100 * mean:.2f}{spread} %"


def _published(row: ResultRow) -> str:
    if row.published_accuracy is None or row.difference is None:
        return ""
    port = load_published().port
    return (
        f"\n\nPublished test accuracy: {100 * row.published_accuracy:.2f} %, {port.source}; "
        f"{port.protocol}."
    )


# --- limits -------------------------------------------------------------------------------------


def _limits(row: ResultRow, files: RowFiles) -> Iterator[str]:
    """What the numbers say against the model, worst first, and what they do not say at all."""
    yield from _missed(row)
    if _explains(files):
        yield from _doubtful_pictures(files.metrics.mean)
        yield from _doubtful_prototypes(row, files.metrics.mean)
    else:
        yield "A baseline without prototypes: there is nothing to explain a prediction with."
    yield _confused(row, files)
    yield _between_seeds(files)
    yield from _strangers(files)
    yield (
        "Not measured: noise and other changes of the images, images from other sources, "
        "deliberate deception."
    )


def _missed(row: ResultRow) -> Iterator[str]:
    if row.reaches_published is False:
        yield "The published accuracy is not reached."


def _doubtful_pictures(mean: Mapping[str, float]) -> Iterator[str]:
    seen, case = mean.get("independent_agreement", 1.0), mean.get("case_agreement")
    if seen < RECOGNISABLE:
        yield (
            f"**An outsider recognises {100 * seen:.0f} % of the decoded pictures**; the others "
            "mean their class to the network only. Look at the nearest training case beside the "
            f"picture{'' if case is None else f' (case agreement {100 * case:.0f} %)'}."
        )
    for name, who in {
        "reconstruction_agreement": "the network itself",
        "independent_reconstruction_agreement": "an outsider",
    }.items():
        if mean.get(name, 1.0) < RECOGNISABLE:
            yield (
                f"Reconstructions lose what {who} goes by: {100 * mean[name]:.0f} % of them get "
                "the same prediction as the image."
            )


def _doubtful_prototypes(row: ResultRow, mean: Mapping[str, float]) -> Iterator[str]:
    for name, words in {
        "decode_agreement": "of the decoded prototypes the network itself puts into another class",
        "cycle_identity": "of the decoded prototypes lie nearer to another prototype",
    }.items():
        if mean.get(name, 1.0) < 1:
            yield f"{100 * (1 - mean[name]):.0f} % {words}."
    if mean.get("purity25", 1.0) < RECOGNISABLE:
        yield (
            f"Around a prototype {100 * (1 - mean['purity25']):.0f} % of the nearest training "
            "cases belong to other classes."
        )
    num_classes = DATASETS[row.dataset].num_classes
    if row.coverage_min < num_classes:
        yield f"In the worst seed {row.coverage_min} of {num_classes} classes have a prototype."
    if mean.get("duplicates"):
        yield (
            f"{mean['duplicates']:.3g} pairs of prototypes nearly coincide: that many of the "
            f"{row.num_prototypes} add little."
        )


def _confused(row: ResultRow, files: RowFiles) -> str:
    """The most frequent errors, over all seeds."""
    counts = [
        [sum(cells) for cells in zip(*lines, strict=True)]
        for lines in zip(*(seed.confusion for seed in files.evaluations), strict=True)
    ]
    names = DATASETS[row.dataset].class_names
    errors = [
        (count / sum(line), f"{names[true]} taken for {names[predicted]}")
        for true, line in enumerate(counts)
        for predicted, count in enumerate(line)
        if count and predicted != true
    ]
    worst = sorted(errors, key=lambda error: -error[0])[:CONFUSIONS]
    listed = ", ".join(f"{words} ({100 * share:.1f} %)" for share, words in worst)
    return f"Most confused, in per cent of the true class: {listed or 'nothing'}."


def _between_seeds(files: RowFiles) -> str:
    found = [seed.metrics["test_accuracy"] for seed in files.evaluations]
    if len(found) == 1:
        return "One seed: how far another one would differ is not known."
    low, high = 100 * min(found), 100 * max(found)
    return f"Between the seeds test accuracy goes from {low:.2f} to {high:.2f} %."


def _strangers(files: RowFiles) -> Iterator[str]:
    words = "Every image gets a class, also one that shows something else."
    if _explains(files):
        words += (
            " The explanation raises a flag where an image lies farther from all prototypes than "
            "99 % of the validation images, and farther from all training cases too; an image of "
            "something else may lie nearer."
        )
    limits = [
        f"seed {seed.seed}: {seed.metrics['prototype_limit']:.3f} and "
        f"{seed.metrics['case_limit']:.3f}"
        for seed in files.evaluations
        if {"prototype_limit", "case_limit"} <= set(seed.metrics)
    ]
    yield f"{words} The two limits of {'; '.join(limits)}." if limits else words


# ------------------------------------------------------------------------------------------------


def _made_with(row: ResultRow, files: RowFiles) -> str:
    names = ("processor", "device", "threads", "precision", "python", "torch", "git_revision")
    facts = {name: row.environment.get(name, "unknown") for name in names}
    ended = datetime.fromtimestamp(max(log.end_ms for log in files.logs) / 1000, UTC)
    command = f"make repro ROW={row.row}" if row.data_source == "full" else "make demo"
    items = [
        f"Hardware: {facts['processor']}; device {facts['device']}, threads {facts['threads']}, "
        f"precision {facts['precision']}.",
        f"Versions: Python {facts['python']}, torch {facts['torch']}, git revision "
        f"`{facts['git_revision']}`.",
        f"Time: {format_seconds(row.train_seconds_mean)} of training for one seed; ended "
        f"{ended:%Y-%m-%d} (UTC).",
        f"Command: `{command}`. MLflow run: `{row.run_id}`.",
    ]
    return _items(items)


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
