"""The data sets of runs and models as MLflow links them: which images, from where, for what."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from protodl.core.training_log import SeedFacts
from protodl.data.datasets import recorded_info

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

PAGES = {  # where the makers of a data set describe it
    "mnist": "http://yann.lecun.com/exdb/mnist/",
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
}


def training_data(facts: SeedFacts) -> "DatasetInput":
    """The images that a seed is trained on and chosen by."""
    counts = {"num_train": facts.num_train, "num_validation": facts.num_validation}
    source = {"stage": f"download@{facts.dataset}", "md5": facts.data_digest}
    return _input(facts, "", source, counts, "training")


def test_data(facts: SeedFacts, num_images: int) -> "DatasetInput":
    """The images that a seed is tested on; their digest is that of the training images."""
    source = {"stage": f"download@{facts.dataset}", "md5 of the training file": facts.data_digest}
    return _input(facts, "-test", source, {"num_test": num_images}, "test")


def data_of_metric(facts: SeedFacts, name: str) -> dict[str, str]:
    """Which data set a final number was measured on, as MLflow's metrics name it."""
    ending = "-test" if name.startswith("test_") else ""
    return {"dataset_name": facts.dataset + ending, "dataset_digest": _digest(facts)}


def _digest(facts: SeedFacts) -> str:
    return facts.data_digest[:36]  # MLflow takes no longer one


def _input(
    facts: SeedFacts, ending: str, source: Mapping[str, Any], counts: Mapping[str, int], use: str
) -> "DatasetInput":
    """Name, digest, fields and counts of a data set, without reading it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    info = recorded_info(facts)
    images = {"name": "image", "type": f"uint8 {info.shape}"}
    labels = {"name": "label", "type": ", ".join(info.class_names)}
    dataset = Dataset(
        name=info.name + ending,
        digest=_digest(facts),
        source_type="dvc",
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": [images, labels]}),
        profile=json.dumps(counts),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", use)])
