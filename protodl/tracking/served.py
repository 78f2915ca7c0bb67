"""Trained networks as others load them: logged, and registered under their data set's name.

Each seed has a classifier (images in, probabilities out) in protodl-<dataset>; the best seed of a
row also has an explaining model (images in, reasons out) in protodl-<dataset>-explained.
"""

import copy
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from protodl.core.training_log import SeedFacts
from protodl.evaluation.measures import MEASURES
from protodl.tracking.datasets import data_of_metric
from protodl.tracking.descriptions import registered_note
from protodl.tracking.pictures import prototypes_picture
from protodl.tracking.runs import is_same
from protodl.tracking.store import Store, experiment_name, permitted_name, tracking_uri
from protodl.tracking.unique import found_or_made, unless_forbidden

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from mlflow.entities import LoggedModel

PACKAGES = ("mlflow", "numpy", "torch")  # that a served model needs
# Seconds that another machine may take to upload a model that it began, and then to register it.
UPLOAD, REGISTRATION = 20.0, 4.0
TOP = 3  # prototypes that an explanation names where the request does not say how many


@dataclass(frozen=True)
class ServedModel:
    """A network to be served; it takes images float32 (N, C, H, W) in [0, 1].

    Without `reasons` it answers with probabilities (N, K), with them by an explanation for each
    image.
    """

    module: "torch.nn.Module"  # network.Classifier, or explanation.serving.Explainer with `reasons`
    example: "npt.NDArray[np.float32]"  # (2, C, H, W); with one image the batch size would be fixed
    class_names: Sequence[str]
    reasons: Mapping[str, Any] | None = None  # explanation.serving.explainer_facts

    @property
    def explains(self) -> bool:
        """Whether it answers with explanations."""
        return self.reasons is not None


def own_name() -> str:
    """What the names of this experiment's registered models begin with: protodl."""
    return permitted_name(experiment_name())


def registered_name(dataset: str, explains: bool = False) -> str:
    """Name of a registered model: protodl-mnist, or protodl-mnist-explained for explanations."""
    return f"{own_name()}-{dataset}" + "-explained" * explains


def find_versions(store: Store, name: str, run_id: str) -> list[str]:
    """Versions of a registered model that come from a run, the latest first."""
    found = store.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return sorted((str(each.version) for each in found), key=int, reverse=True)


class Prepared(NamedTuple):
    """A model as files, ready to be logged without the network."""

    folder: Path  # of program.pt2 and facts.json
    model: ServedModel
    step: int  # epoch of the weights
    scores: "npt.NDArray[np.float32] | None"  # answer to the example; None of one that explains
    facts: dict[str, Any]
    prototypes: "npt.NDArray[np.uint8] | None"  # picture for the description of the run


def prepare_model(facts: SeedFacts, model: ServedModel, step: int, folder: Path) -> Prepared:
    """Export the model of epoch `step` into a folder, without a store."""
    words = {"row": facts.row, "seed": facts.seed, "class_names": list(model.class_names)}
    words |= model.reasons or {}
    scores = _export(model, folder / "program.pt2")
    (folder / "facts.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
    return Prepared(folder, model, step, scores, words, _prototypes(facts, model, step))


def log_model(
    store: Store, facts: SeedFacts, run_id: str, model: ServedModel, step: int, accuracy: float
) -> None:
    """Log and register the model of epoch `step`, unless the store takes none."""
    if store.keeps_models:
        with TemporaryDirectory() as folder:
            prepared = prepare_model(facts, model, step, Path(folder))
            log_prepared(store, facts, run_id, prepared, accuracy)


def log_prepared(
    store: Store, facts: SeedFacts, run_id: str, prepared: Prepared, accuracy: float
) -> None:
    """Save a model as a script and an exported graph, and register it.

    It loads on any machine with PACKAGES, without this project's code and on the CPU. What an
    earlier call was cut off at is completed.
    """
    explains = prepared.model.explains
    name = facts.row + "-explained" * explains
    logged, is_new = _logged_model(store, facts, run_id, name)
    if not is_new:
        logged = _uploaded(store, logged)
    if logged.status != "READY":
        outputs = None if is_new else store.client.get_run(run_id).outputs
        linked = {each.model_id for each in outputs.model_outputs} if outputs else set()
        # MLflow refuses to link a model to its run a second time.
        _upload(prepared, name, None if logged.model_id in linked else run_id, logged.model_id)
    if prepared.prototypes is not None:
        path = "pictures/prototypes.png"
        store.client.log_image(run_id, prepared.prototypes, artifact_file=path)
    registered = registered_name(facts.dataset, explains)
    if not _versions(store, registered, run_id, 0.0 if is_new else REGISTRATION):
        _register(store, facts, run_id, str(logged.model_id), accuracy, explains=explains)


def _logged_model(
    store: Store, facts: SeedFacts, run_id: str, name: str
) -> "tuple[LoggedModel, bool]":
    """The model of a run by its name, and whether it was created here."""
    same = f"source_run_id = '{run_id}' and name = '{name}'"
    tags = {"row": facts.row, "seed": str(facts.seed), "dataset": facts.dataset}

    def find() -> "dict[str, LoggedModel]":
        found = store.client.search_logged_models([store.experiment_id], same)
        return {str(each.model_id): each for each in found}

    def make() -> str:
        made = store.client.create_logged_model(store.experiment_id, name, run_id, tags)
        return str(made.model_id)

    def remove(model_id: str) -> None:
        with unless_forbidden():
            store.client.delete_logged_model(model_id)

    return found_or_made(find, lambda models: next(iter(models), None), make, remove)


def _uploaded(store: Store, logged: "LoggedModel") -> "LoggedModel":
    """A model that another machine may be uploading, once it has done so or takes too long."""
    end = time.time() + UPLOAD if tracking_uri().startswith("http") else 0
    end = min(end, logged.creation_timestamp / 1000 + UPLOAD)
    while logged.status != "READY" and time.time() < end:
        time.sleep(1)
        logged = store.client.get_logged_model(logged.model_id)
    return logged


def _upload(prepared: Prepared, name: str, run_id: str | None, model_id: str) -> None:
    """Do what mlflow.pyfunc.log_model does, which takes no run."""
    import mlflow.pyfunc
    from mlflow.models import Model, infer_signature

    model, folder = prepared.model, prepared.folder
    params = {"top": TOP} if model.explains else None
    Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        name=name,
        run_id=run_id,
        model_id=model_id,
        step=prepared.step,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"program": f"{folder}/program.pt2", "facts": f"{folder}/facts.json"},
        input_example=(model.example, params) if params else model.example,
        signature=infer_signature(model.example, prepared.scores, params),
        pip_requirements=[f"{each}=={_published_version(each)}" for each in PACKAGES],
        metadata=prepared.facts,
    )


def _prototypes(facts: SeedFacts, model: ServedModel, step: int) -> "npt.NDArray[np.uint8] | None":
    """The prototypes of the kept network; the explaining model is of a seed that has them."""
    from protodl.network.network import Classifier

    if not isinstance(model.module, Classifier) or model.module.network.config.distance == "none":
        return None
    return prototypes_picture(model.module.network, f"{facts.title}, kept epoch {step}")


def log_model_metrics(
    store: Store, facts: SeedFacts, run_id: str, numbers: Mapping[str, float]
) -> None:
    """Record final numbers that the run has as those of its models, with their data sets."""
    from mlflow.entities import Metric

    if not store.keeps_models:
        return
    models = store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")
    # With the run's own time and step a metric does not become a second point of the run.
    recorded = store.client.get_run(run_id).to_proto().data.metrics if models else []
    shown = [each for each in recorded if each.key in MEASURES and each.key in numbers]
    for model in models:
        held = {each.key: each.value for each in model.metrics or []}
        new = [
            Metric(
                each.key, each.value, each.timestamp, each.step,
                model_id=str(model.model_id), **data_of_metric(facts, each.key),
            )
            for each in shown
            if not is_same(held.get(each.key), each.value)
        ]  # fmt: skip
        if new:
            store.client.log_batch(run_id, metrics=new)


def _export(model: ServedModel, path: Path) -> "npt.NDArray[np.float32] | None":
    """Write the graph for a batch of any size; gives a classifier's answer to the example."""
    import torch

    module = copy.deepcopy(model.module).cpu().eval()  # the trained one stays where and as it is
    example, batch = torch.from_numpy(model.example), {0: torch.export.Dim.AUTO}
    exported = torch.export.export(module, (example,), dynamic_shapes=(batch,))
    with warnings.catch_warnings():  # on weights of other devices; these are on the CPU
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(exported, path)
    if model.explains:
        return None
    with torch.inference_mode():
        scores: npt.NDArray[np.float32] = module(example).numpy()
    return scores


def _published_version(package: str) -> str:
    """The installed version without `+cpu`, which the package index does not know."""
    return version(package).split("+")[0]


def _versions(store: Store, name: str, run_id: str, seconds: float) -> list[str]:
    """The versions of a run's model, waiting so long for the machine that has uploaded it."""
    end = time.time() + seconds if tracking_uri().startswith("http") else 0
    while not (found := find_versions(store, name, run_id)) and time.time() < end:
        time.sleep(0.5)
    return found


def _register(
    store: Store, facts: SeedFacts, run_id: str, model_id: str, accuracy: float, *, explains: bool
) -> None:
    """Make the model a version of its registered model."""
    from mlflow.exceptions import MlflowException

    name = registered_name(facts.dataset, explains)
    try:
        note = registered_note(facts.dataset, explains, [])
        store.client.create_registered_model(name, description=note)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"row": facts.row, "seed": facts.seed, "validation_accuracy": accuracy}
    made = store.client.create_model_version(
        name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id
    )
    if str(made.version) != find_versions(store, name, run_id)[-1]:  # another machine was first
        with unless_forbidden():
            store.client.delete_model_version(name, made.version)
