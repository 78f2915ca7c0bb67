"""params.yaml held against what a run needs: DVC's sections, the data sets, this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from protodl.core.config import ConfigError, Params, load_params
from protodl.core.dataset_config import PUBLISHED, SAMPLED, DatasetConfig, PresetName
from protodl.core.experiment_config import Experiment
from protodl.core.limits import available_cpus, memory, threads_of_variable
from protodl.core.mistakes import joined

THREADS_OF_ONE = 8  # for each processor; beyond that a system may refuse to start them
OUTPUTS = ("models", "results", "report")  # folders beside the file that DVC puts files into
FLOATS = 16  # of a pixel at least, in the first layer of the smallest network


def check_params(path: Path | str) -> Params:
    """Read params.yaml, and find what a run would stop at later.

    Raises:
        ConfigError: as load_params; or a row asks for more than its data set or this machine has,
            a section is missing that DVC follows, or a folder of outputs leads out of the
            repository.
    """
    params = load_params(path)
    threads_of_variable()
    problems = (*_missing(params), *_too_large(params), *_links(Path(path).parent))
    if problems:
        raise ConfigError(joined(f"{path}: {problem}" for problem in problems))
    return params


def _missing(params: Params) -> Iterator[str]:
    """What dvc.yaml names; a file without `datasets` is none that DVC reads."""
    if "datasets" not in params.model_fields_set:
        return
    yield from (
        f"{name}: is missing; add it: DVC follows it"
        for name in Params.model_fields
        if name not in params.model_fields_set
    )
    yield from (
        f"recipes.{name}: is missing; add it: DVC follows it, whether a row has that preset or not"
        for name in get_args(PresetName)
        if name not in params.recipes
    )


def _too_large(params: Params) -> Iterator[str]:
    processors, most = available_cpus(), memory()
    if params.training.threads > THREADS_OF_ONE * processors:
        yield (
            f"training.threads = {params.training.threads}: this process may use {processors} "
            "processors; say at most as many, or 0 for all"
        )
    for name, row in params.experiments.items():
        config = params.dataset(row.dataset)
        yield from (f"experiments.{name}.{each}" for each in row_problems(row, config, most))
    for name in dict.fromkeys(row.dataset for row in params.experiments.values()):
        yield from _of_dataset(params, name)


def _of_dataset(params: Params, name: str) -> Iterator[str]:
    config, size = params.dataset(name), params.training.validation_size
    if config.facts is None:
        return
    if config.classes and len(config.classes) != config.facts.num_classes:
        yield (
            f"datasets.{name}.classes: {len(config.classes)} names; this data set has "
            f"{config.facts.num_classes} classes"
        )
    sample = params.data.source == "sample"
    images = SAMPLED[str(config.torchvision)] if sample else config.facts.num_train
    if config == PUBLISHED.get(name) and size >= images:
        yield (
            f"training.validation_size = {size}: {name} has {images} training images, and some "
            f"must be left; say {400 if sample else 5000}"
        )


def row_problems(row: Experiment, config: DatasetConfig, most: int) -> Iterator[str]:
    """What a row asks for that its data set does not have, or this machine's memory not hold."""
    side = config.facts.size if config.facts else config.size or 0
    images = config.facts.num_train if config.facts else row.batch_size
    prototypes, batch = row.model.num_prototypes, min(row.batch_size, images)
    if row.augment.shift >= side:
        yield (
            f"augment.shift = {row.augment.shift}: the images of {row.dataset} are {side} pixels "
            f"wide; say at most {side - 1}"
        )
    if config.facts and prototypes > images:
        yield (
            f"model.num_prototypes = {prototypes}: {row.dataset} has {images} training images, at "
            "which prototypes begin; say at most as many"
        )
    shown = max(1, round(row.loss.decoded_prototype_share * prototypes))
    exchanged = row.loss.exchanged_appearance if row.model.architecture == "resnet" else 0
    if exchanged and (shown < 2 or not round(exchanged * shown)):
        yield (
            f"loss.exchanged_appearance = {exchanged}: exchanges none, for a step decodes "
            f"{shown} of {prototypes} prototypes (loss.decoded_prototype_share); say more of "
            "either, or 0"
        )
    bytes_of = {
        f"model.num_prototypes = {prototypes}": 4 * prototypes**2,  # their distances
        f"batch_size = {row.batch_size}": 4 * FLOATS * batch * side**2,
    }
    for key, needed in bytes_of.items():
        if needed > most:
            yield (
                f"{key}: needs more than {needed / 2**30:.0f} GiB of memory, this process may have "
                f"{most / 2**30:.1f}; say less"
            )


def _links(folder: Path) -> Iterator[str]:
    """What DVC would refuse when the first training has ended."""
    here = folder.resolve()
    repository = next((up for up in (here, *here.parents) if (up / ".git").exists()), here)
    for name in OUTPUTS:
        place = (here / name).resolve()
        if not place.is_relative_to(repository):
            yield (
                f"{name}/ is a link to {place}, outside of the repository, where DVC keeps nothing;"
                " make it a folder (`dvc cache dir DIR` puts the large files elsewhere)"
            )
