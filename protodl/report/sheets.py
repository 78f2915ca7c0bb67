"""The pictures of one trained network, and explanations as files.

An explanation is a sheet (PNG) for people, and JSON for programs.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from protodl.core.files import write_text
from protodl.data.datasets import Split, load_split, to_unit_interval
from protodl.data.pictures import Input, InputError, image_files, read_picture
from protodl.explanation.gallery import Gallery
from protodl.explanation.local import Model, explain, load
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
    strongest = weights.amin(dim=0).numpy()
    classes = np.array(model.classes)
    cases = np.stack([case.picture for case in model.prototype_cases])
    yield "prototypes", prototypes_figure(model.decoded, classes, strongest, names, cases)
    yield "weights", weights_figure(weights.numpy(), names, model.decoded)
    correct = predictions == labels
    preferred = correct & (labels == PREFERRED_CLASS)
    index = int((preferred if preferred.any() else correct).int().argmax())
    explanation = explain(model, images[index], int(labels[index]))
    yield "reasons", reasons_figure(explanation, model.info.title)


@dataclass(frozen=True, eq=False)
class ImageToExplain:
    """An image to explain, the name of its files, and its class if known."""

    name: str
    image: Input
    label: int | None = None


def images_of_files(paths: list[Path]) -> list[ImageToExplain]:
    """Image files and folders of them, each file read once to see that it is an image.

    Raises:
        InputError: one is missing or not an image, or a folder holds none.
    """
    files = image_files(paths)
    for file in files:
        read_picture(file)
    return [ImageToExplain(file.stem, file) for file in files]


def images_of_split(test: Split, indices: list[int]) -> list[ImageToExplain]:
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


def run_explain(
    root: Path,
    row: str,
    images: list[Path],
    tests: list[int],
    seed: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Explain images of files and of the test split: files in `output`, words or JSON printed.

    Raises:
        InputError: no image was named, or one cannot be used; nothing was written.
        ConfigError, CheckpointError, DatasetError: see `protodl.explanation.local.load`.
    """
    if not images and not tests:
        raise InputError("nothing to explain: name image files or folders, or --test INDEX")
    model = load(row, seed, root)
    to_explain = images_of_files(images)
    if tests:
        test = load_split(root / "data" / model.info.name / "test.pt")
        to_explain += images_of_split(test, tests)
    explanations = []
    for each in with_distinct_names(to_explain):
        explanation = explain(model, each.image, each.label, each.name)
        picture = write_explanation(explanation, output, each.name)
        explanations.append(explanation.as_dict())
        if not as_json:
            print(f"{explanation}\n  -> {picture} and .json", flush=True)
    if as_json:
        print(json.dumps(explanations, indent=1, allow_nan=False))


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
