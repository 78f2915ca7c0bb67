"""The pictures of one trained network, and explanations as files.

An explanation is a sheet (PNG) for people, and JSON for programs.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from protodl.core.files import write_text
from protodl.data.datasets import Split, load_split, to_unit_interval
from protodl.data.pictures import Input, InputError, Preparation, image_files
from protodl.explanation.gallery import Gallery
from protodl.explanation.loading import load
from protodl.explanation.local import explain
from protodl.explanation.model import Model
from protodl.explanation.types import Explanation
from protodl.report.figures.explanation_sheet import explanation_figure
from protodl.report.figures.matrices import weights_figure
from protodl.report.figures.page import save
from protodl.report.figures.prototypes import prototypes_figure
from protodl.report.figures.reasons import reasons_figure
from protodl.report.figures.samples import samples_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFERRED_CLASS = 7  # of the image whose decision is drawn: "this is a 7 because ..."


@torch.no_grad()
def network_figures(model: Model, validation: Split) -> "Iterator[tuple[str, Figure]]":
    """Draw a network on validation images; gives each figure with its name.

    `samples` shows the first image of each class. `reasons` shows the first image of class
    PREFERRED_CLASS that is classified correctly, or else the first of any class that is.
    """
    network, names = model.network, model.info.class_names
    images, labels = to_unit_interval(validation.images), validation.labels
    output = network(images)
    assert output.reconstructions is not None
    weights, predictions = network.head.weight, output.logits.argmax(dim=1)
    first = torch.stack([(labels == k).nonzero()[0, 0] for k in labels.unique()])
    shown = images[first].numpy(), output.reconstructions[first].numpy()
    outcomes = ([names[k] for k in classes[first]] for classes in (labels, predictions))
    yield "samples", samples_figure(*shown, *outcomes)
    yield "prototypes", prototypes_of(model)
    yield "weights", weights_figure(weights.numpy(), names, model.decoded)
    correct = predictions == labels
    preferred = correct & (labels == PREFERRED_CLASS)
    index = int((preferred if preferred.any() else correct).int().argmax())
    explanation = explain(model, images[index], int(labels[index]))
    yield "reasons", reasons_figure(explanation, model.info.title)


def prototypes_of(model: Model) -> "Figure":
    """The prototypes of a network, each with its nearest training case."""
    strongest = model.network.head.weight.detach().amin(dim=0).numpy()
    classes = np.array(model.classes)
    cases = np.stack([case.picture for case in model.prototype_cases])
    return prototypes_figure(model.decoded, classes, strongest, model.info.class_names, cases)


@dataclass(frozen=True, eq=False)
class ImageToExplain:
    """An image to explain, the name of its files, and its class if known."""

    name: str
    image: Input
    label: int | None = None


def images_of_split(test: Split, indices: Sequence[int]) -> list[ImageToExplain]:
    """Images of the test split.

    Raises:
        InputError: there is no image of that index.
    """
    for index in indices:
        if not 0 <= index < len(test):
            raise InputError(f"--test {index}: the test split has images 0 to {len(test) - 1}")
    return [
        ImageToExplain(f"test-{index}", test.images[index], int(test.labels[index]))
        for index in indices
    ]


def with_distinct_names(images: Iterable[ImageToExplain]) -> list[ImageToExplain]:
    """The same images; of several with one name, the later ones are numbered: `a`, `a-2`."""
    named: dict[str, ImageToExplain] = {}
    for image in images:
        name, number = image.name, 1
        while name in named:
            number += 1
            name = f"{image.name}-{number}"
        named[name] = replace(image, name=name)
    return list(named.values())


@dataclass(frozen=True)
class Request:
    """What is to be explained, by what, and how the answers are given."""

    row: str
    images: Sequence[Path]  # files, or folders of them
    tests: Sequence[int] = ()  # images of the test split
    seed: int | None = None
    prepare: Preparation = "auto"
    output: Path | None = None  # folder; None: explanations/<row>
    as_json: bool = False  # print JSON instead of words


def run_explain(root: Path | None, request: Request) -> None:
    """Explain images: a sheet and JSON for each, one CSV for all; words or JSON are printed.

    A file that cannot be used is told and left out; the others are explained.

    Raises:
        InputError: no image was named, or some could not be used; the others were explained.
        ConfigError, CheckpointError, DatasetError: see `protodl.explanation.loading.load`.
    """
    if not request.images and not request.tests:
        raise InputError("nothing to explain: name image files or folders, or --test INDEX")
    model = load(request.row, request.seed, root)
    folder = request.output or Path("explanations") / model.row
    explanations, problems = [], []
    for each in with_distinct_names(_to_explain(root, request, model)):
        try:
            explanation = explain(model, each.image, each.label, each.name, request.prepare)
        except InputError as error:
            problems.append(str(error))
            continue
        picture = write_explanation(explanation, folder, each.name)
        explanations.append(explanation)
        if not request.as_json:
            print(f"{explanation}\n  -> {picture} and .json", flush=True)
    if request.as_json:
        print(json.dumps([each.as_dict() for each in explanations], indent=1, allow_nan=False))
    if len(explanations) > 1:
        write_text(summary(explanations), folder / "summary.csv")
    if problems:
        raise InputError("\n".join(problems))


def _to_explain(root: Path | None, request: Request, model: Model) -> list[ImageToExplain]:
    images = [ImageToExplain(file.stem, file) for file in image_files(request.images)]
    if not request.tests:
        return images
    if root is None:
        raise InputError("--test: the test images are a project's; run this inside of it")
    test = load_split(root / "data" / model.info.name / "test.pt")
    return images + images_of_split(test, request.tests)


def summary(explanations: Sequence[Explanation]) -> str:
    """A table of many explanations as CSV, a line for each image."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        "name path prediction probability runner_up runner_up_probability label unusual warnings"
        .split()
    )  # fmt: skip
    for each in explanations:
        first, second = each.prediction, each.runner_up
        table.writerow(
            [each.name, each.path, first.class_name, f"{first.probability:.4f}", second.class_name,
             f"{second.probability:.4f}", each.label, f"{each.out_of_distribution.unusual:.3f}",
             " ".join(each.warnings)]
        )  # fmt: skip
    return text.getvalue()


def explain_gallery(model: Model, gallery: Gallery, folder: Path) -> None:
    """Write the explanation of each image of the gallery, named by kind and number: `wrong-2`."""
    numbers: Counter[str] = Counter()
    images, labels = gallery.cases.images, gallery.cases.labels.tolist()
    for position, kind in enumerate(gallery.kinds):
        numbers[kind] += 1
        name = f"test-{int(gallery.indices[position])}"
        explanation = explain(model, images[position], labels[position], name)
        write_explanation(explanation, folder, f"{kind}-{numbers[kind]}")


def write_explanation(explanation: Explanation, folder: Path, name: str) -> Path:
    """Write `<name>.png` and `<name>.json` into the folder; returns the path of the picture."""
    picture = folder / f"{name}.png"
    save(explanation_figure(explanation), picture)
    text = json.dumps(explanation.as_dict(), indent=1, allow_nan=False)
    write_text(text + "\n", folder / f"{name}.json")
    return picture
