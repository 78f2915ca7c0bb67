"""Models as they are served: logged, and registered under their data set's name."""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from protodl.tracking.runs import SeedFacts
from protodl.tracking.store import Store, experiment_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

PACKAGES = ("mlflow", "numpy", "torch")  # that a served model needs
TOP = 3  # prototypes that an explanation names where the request does not say how many


@dataclass(frozen=True)
class ServedModel:
    """A classifier as it is served: images float32 (N, C, H, W) in [0, 1] -> scores (N, K)."""

    module: "torch.nn.Module"
    example: "npt.NDArray[np.float32]"  # (2, C, H, W); with one image the batch size would be fixed
    class_names: Sequence[str]


@dataclass(frozen=True)
class ExplainedModel:
    """A classifier that gives its reasons, as it is served: the same images -> a dict for each."""

    module: "torch.nn.Module"  # protodl.explanation.serving.Explainer
    example: "npt.NDArray[np.float32]"  # (2, C, H, W)
    facts: Mapping[str, Any]  # protodl.explanation.serving.explainer_facts


def registered_name(dataset: str) -> str:
    """Name of a data set's registered model: protodl-mnist in the experiment protodl."""
    return f"{experiment_name()}-{dataset}"


def explained_name(dataset: str) -> str:
    """Name of the registered model that explains: protodl-mnist-explained."""
    return f"{registered_name(dataset)}-explained"


def find_versions(store: Store, name: str, run_id: str) -> list[str]:
    """Versions of a registered model that come from a run, the latest first."""
    found = store.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return sorted((str(each.version) for each in found), key=int, reverse=True)


def log_model(
    store: Store, facts: SeedFacts, run_id: str, model: ServedModel, step: int, accuracy: float
) -> None:
    """Save the classifier as an exported graph, which loads without this project's code."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    module = copy.deepcopy(model.module).cpu().eval()  # the trained one stays where and as it is
    scores = _predict(module, model.example)
    logged = store.client.create_logged_model(store.experiment_id, facts.row, run_id)
    with _saving_on_the_cpu():
        mlflow.pytorch.log_model(
            module,
            name=facts.row,
            run_id=run_id,
            model_id=logged.model_id,
            step=step,
            serialization_format="pt2",
            input_example=model.example,
            signature=infer_signature(model.example, scores),
            pip_requirements=_requirements(),
            metadata={"row": facts.row, "seed": facts.seed, "class_names": list(model.class_names)},
            validate_serving_input=False,
        )
    name = registered_name(facts.dataset)
    _register(store, name, facts, run_id, str(logged.model_id), accuracy)


def log_explained(
    store: Store, facts: SeedFacts, run_id: str, model: ExplainedModel, step: int, accuracy: float
) -> None:
    """Save the explaining model as a script and an exported graph; it needs no code of ours."""
    import mlflow.pyfunc
    from mlflow.models import Model, infer_signature

    name = f"{facts.row}-explained"
    logged = store.client.create_logged_model(store.experiment_id, name, run_id)
    with TemporaryDirectory() as folder, _saving_on_the_cpu():
        words = {"row": facts.row, "seed": facts.seed, **model.facts}
        Model.log(  # as mlflow.pyfunc.log_model does, which takes no run
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=name,
            run_id=run_id,
            model_id=logged.model_id,
            step=step,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts=_write_artifacts(model, words, Path(folder)),
            input_example=(model.example, {"top": TOP}),
            signature=infer_signature(model.example, None, {"top": TOP}),
            pip_requirements=_requirements(),
            metadata=words,
        )
    name = explained_name(facts.dataset)
    _register(store, name, facts, run_id, str(logged.model_id), accuracy)


def _write_artifacts(
    model: ExplainedModel, words: Mapping[str, Any], folder: Path
) -> dict[str, str]:
    """Write what the script loads; returns the files by name."""
    import torch

    program, facts = folder / "program.pt2", folder / "facts.json"
    batch = {0: torch.export.Dim.AUTO}
    example = torch.from_numpy(model.example)
    module = copy.deepcopy(model.module).cpu().eval()
    exported = torch.export.export(module, (example,), dynamic_shapes=(batch,))
    torch.export.save(exported, program)
    facts.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return {"program": str(program), "facts": str(facts)}


@contextmanager
def _saving_on_the_cpu() -> Iterator[None]:
    """Silence what torch says about weights on other devices; these are on the CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        yield


def _requirements() -> list[str]:
    """Exact versions, without `+cpu`, which the package index does not know."""
    return [f"{name}=={version(name).split('+')[0]}" for name in PACKAGES]


def _predict(
    module: "torch.nn.Module", images: "npt.NDArray[np.float32]"
) -> "npt.NDArray[np.float32]":
    import torch

    with torch.inference_mode():
        scores: npt.NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return scores


def _register(
    store: Store, name: str, facts: SeedFacts, run_id: str, model_id: str, accuracy: float
) -> None:
    """Make the model a version of this registered model."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"row": facts.row, "seed": facts.seed, "validation_accuracy": accuracy}
    store.client.create_model_version(
        name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id
    )
