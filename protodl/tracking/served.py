"""The classifier as it is served: logged, and registered under its data set's name."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from protodl.tracking.runs import SeedFacts
from protodl.tracking.store import Store, experiment_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from mlflow.entities import Run


@dataclass(frozen=True)
class ServedModel:
    """A classifier as it is served: images float32 (N, C, H, W) in [0, 1] -> scores (N, K)."""

    module: "torch.nn.Module"
    example: "npt.NDArray[np.float32]"  # (2, C, H, W); with one image the batch size would be fixed
    class_names: Sequence[str]


def has_model(run: "Run") -> bool:
    """Whether a run has its classifier."""
    return bool(run.outputs and run.outputs.model_outputs)


def log_model(
    store: Store, facts: SeedFacts, run_id: str, model: ServedModel, step: int, accuracy: float
) -> None:
    """Save the classifier as an exported graph, which loads without this project's code."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    module = copy.deepcopy(model.module).cpu().eval()  # the trained one stays where and as it is
    scores = _predict(module, model.example)
    logged = store.client.create_logged_model(store.experiment_id, facts.row, run_id)
    packages = ("mlflow", "numpy", "torch")
    with warnings.catch_warnings():
        # About weights on other devices; these are on the CPU.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        mlflow.pytorch.log_model(
            module,
            name=facts.row,
            run_id=run_id,
            model_id=logged.model_id,
            step=step,
            serialization_format="pt2",
            input_example=model.example,
            signature=infer_signature(model.example, scores),
            # Without `+cpu`, which the package index does not know.
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in packages],
            metadata={"row": facts.row, "seed": facts.seed, "class_names": list(model.class_names)},
            validate_serving_input=False,
        )
    _register(store, facts, run_id, str(logged.model_id), accuracy)


def _predict(
    module: "torch.nn.Module", images: "npt.NDArray[np.float32]"
) -> "npt.NDArray[np.float32]":
    import torch

    with torch.inference_mode():
        scores: npt.NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return scores


def _register(store: Store, facts: SeedFacts, run_id: str, model_id: str, accuracy: float) -> None:
    """Make the model a version of the data set's registered model."""
    from mlflow.exceptions import MlflowException

    name = registered_name(facts.dataset)
    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"row": facts.row, "seed": facts.seed, "validation_accuracy": accuracy}
    store.client.create_model_version(
        name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id
    )


def registered_name(dataset: str) -> str:
    """Name of a data set's registered model: protodl-mnist in the experiment protodl."""
    return f"{experiment_name()}-{dataset}"
