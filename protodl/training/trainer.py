"""The training loop: schedule, clipping, weight averaging, selection on validation images, resume.

Shapes: N images, C channels, H x W pixels.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protodl.core.errors import ProtodlError
from protodl.core.experiment_config import Experiment
from protodl.core.files import FORMAT, read_tensors, write_tensors
from protodl.core.machine import Runtime
from protodl.core.training_log import EpochRecord
from protodl.data.augment import augmented
from protodl.data.datasets import Split, to_unit_interval
from protodl.evaluation.accuracy import evaluate
from protodl.network.losses import (
    TERMS,
    Lesson,
    LossInputs,
    decodes_prototypes,
    training_terms,
    weighted,
)
from protodl.network.network import PrototypeNetwork
from protodl.training.optimizers import build_optimizers, learning_rate, set_learning_rate
from protodl.training.prototypes import first_cases, project
from protodl.training.step_graph import StepGraph


class TrainingError(ProtodlError):
    """A training that diverged; the message says which seed, in which epoch."""


@dataclass(frozen=True)
class FitResult:
    """The network of the best epoch on the validation images, and how training went."""

    network: PrototypeNetwork
    history: list[EpochRecord]
    unprojected: PrototypeNetwork | None = None  # the same before its prototypes were projected

    @property
    def train_seconds(self) -> float:
        """Seconds of training and selection, interruptions left out."""
        return sum(record.seconds for record in self.history)

    @property
    def selected(self) -> EpochRecord:
        """The epoch that the network comes from."""
        return [record for record in self.history if record.selected][-1]


@dataclass(frozen=True)
class Hooks:
    """What a caller may watch; none of it can change the outcome."""

    on_step: Callable[[int], None] = lambda num_images: None
    on_epoch: Callable[[EpochRecord, PrototypeNetwork], None] = lambda record, network: None


@dataclass
class Trainer:
    """One training: network, optimizer and all random state; everything a checkpoint holds."""

    network: PrototypeNetwork
    train: Split
    validation: Split
    experiment: Experiment
    runtime: Runtime
    seed: int
    lesson: Lesson | None = None  # of a teacher: for all N training images
    history: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Put everything on the device and build optimizer, average and random state."""
        device = self.runtime.device
        self.network.to(device).to(memory_format=self.runtime.memory_format)
        self.train = Split(self.train.images.to(device), self.train.labels.to(device))
        if self.lesson is not None:
            self.lesson = self.lesson._replace(logits=self.lesson.logits.to(device))
        recorded = self.runtime.cuda_graph
        self.optimizers = build_optimizers(self.network, self.experiment.optimizer, recorded)
        averaging = self.experiment.optimizer.averaging > 0
        self.average = copy.deepcopy(self.network) if averaging else None
        self.cases = self._cases()
        self.order_generator = torch.Generator().manual_seed(self.seed)
        self.augment_generator = torch.Generator(device).manual_seed(self.seed)
        self.graph = StepGraph([self.augment_generator]) if recorded else None
        self.learning_rate = torch.zeros((), device=device)
        self.best_state: dict[str, Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; a short last batch is a step too."""
        return math.ceil(len(self.train) / self.experiment.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.experiment.epochs * self.steps_per_epoch

    @property
    def kept_network(self) -> PrototypeNetwork:
        """The network that is validated and kept: the averaged one where averaging is on."""
        return self.network if self.average is None else self.average

    def run_epoch(self, hooks: Hooks) -> EpochRecord:
        """Train one epoch, validate, and keep the weights if they are the best so far."""
        start = time.perf_counter()
        metrics = self._train_epoch(hooks)
        train_seconds = time.perf_counter() - start
        self._check_finite(metrics)
        self.kept_network.eval()  # validation images leave no trace in its statistics
        if self.cases is not None:
            cases = to_unit_interval(self.train.images[self.cases])
            self.kept_network.set_prototypes(cases)
        result = evaluate(
            self.kept_network,
            self.validation,
            self.experiment.loss,
            self.runtime.device,
            decode=False,
        )
        selected = all(_merit(result.metrics) > _merit(r.validation) for r in self.history)
        if selected:
            self.best_state = copy.deepcopy(self.kept_network.state_dict())
        epoch = len(self.history) + 1
        record = EpochRecord(
            epoch=epoch,
            step=epoch * self.steps_per_epoch,
            timestamp_ms=time.time_ns() // 1_000_000,
            seconds=time.perf_counter() - start,
            images_per_second=len(self.train) / train_seconds,
            learning_rate=float(self.optimizers[0].param_groups[0]["lr"]),
            train=metrics,
            validation=result.metrics,
            selected=selected,
        )
        self.history.append(record)
        return record

    def state(self) -> dict[str, Any]:
        """Everything that continues the training bit for bit, as tensors and plain values."""
        return {
            "format": FORMAT,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "order_generator": self.order_generator.get_state(),
            "augment_generator": self.augment_generator.get_state(),
            "best_state": self.best_state,
            "history": json.dumps([record.model_dump() for record in self.history]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; the next epoch is the one after it."""
        self.network.load_state_dict(state["best_state"])  # raises where these do not fit
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.order_generator.set_state(state["order_generator"])
        self.augment_generator.set_state(state["augment_generator"])
        self.best_state = state["best_state"]
        self.history = [EpochRecord(**record) for record in json.loads(state["history"])]

    def _train_epoch(self, hooks: Hooks) -> dict[str, float]:
        """One pass over the training images; returns means over images (r1: over batches)."""
        self.network.train()
        count = len(self.train)
        order = (
            torch.randperm(count, generator=self.order_generator)
            if self.experiment.shuffle
            else torch.arange(count)
        ).to(self.runtime.device)
        sums = torch.zeros(len(TERMS) + 2, device=self.runtime.device)
        step = len(self.history) * self.steps_per_epoch
        for batch in order.split(self.experiment.batch_size):
            sums += self.train_step(batch, step) * len(batch)  # stays on the device: no waiting
            step += 1
            hooks.on_step(len(batch))
        means = (sums / count).tolist()
        return dict(zip(("accuracy", "loss", *TERMS), means, strict=True))

    def train_step(self, batch: Tensor, step: int) -> Tensor:
        """One optimizer step on images of indices `batch`; returns accuracy, loss and its terms."""
        self._set_learning_rate(step)
        weights = self.experiment.loss
        started = step >= weights.decoded_prototype_start * self.total_steps
        decode_prototypes = started and decodes_prototypes(weights)
        # The first step replaces the initial weights, which are no result of training.
        decay = self.experiment.optimizer.averaging if step else 0.0
        work = partial(self._step_on_device, decode_prototypes=decode_prototypes, decay=decay)
        if self.graph is None or len(batch) < self.experiment.batch_size:
            return work(batch)
        return self.graph.run((decode_prototypes, decay), batch, work)

    def _step_on_device(self, batch: Tensor, decode_prototypes: bool, decay: float) -> Tensor:
        """All that a step does on the device, without waiting for it."""
        experiment, runtime = self.experiment, self.runtime
        followed = None
        if self.cases is not None:  # what is first in a batch is decoded too
            followed = self._choose_prototypes()
            batch = torch.cat([self.cases[followed], batch])
        images = augmented(self.train.images[batch], experiment.augment, self.augment_generator)
        labels = self.train.labels[batch]
        chosen = None
        if decode_prototypes:
            chosen = self._choose_prototypes() if followed is None else followed
        lesson = self.lesson and self.lesson._replace(logits=self.lesson.logits[batch])
        weights = experiment.loss
        # A graph must not find a cast that was made outside of it.
        with torch.autocast(
            runtime.device.type,
            runtime.dtype,
            enabled=runtime.dtype != torch.float32,
            cache_enabled=self.graph is None,
        ):
            decoded = max(1, round(weights.reconstruction_share * len(images)))
            output = self.network(images, decode=decoded if weights.reconstruction else 0)
            terms = training_terms(
                LossInputs(self.network, output, images, labels, weights, chosen, lesson)
            )
        loss = torch.stack(weighted(terms, weights)).sum()
        self._optimise(loss, decay)
        if followed is not None:
            codes = output.codes[: len(followed)].detach()
            self.network.prototypes.data[followed] = codes.to(self.network.prototypes.dtype)
        correct = (output.logits.argmax(dim=1) == labels).float().mean()
        return torch.stack([correct, loss, *terms.values()]).detach()

    def _cases(self) -> Tensor | None:
        """Indices (P,) of the training images whose codes the prototypes are at any time, if so."""
        model = self.experiment.model
        if model.train_prototypes != "follow_cases":
            return None
        cases = first_cases(model, self.train, self.seed, self.lesson)
        return cases.to(self.runtime.device)

    def _choose_prototypes(self) -> Tensor:
        """Indices (S,) of the prototypes that this step decodes or renews, drawn anew each time."""
        total, generator = len(self.network.prototypes), self.augment_generator
        chances = torch.rand(total, generator=generator, device=self.runtime.device)
        return chances.topk(
            max(1, round(self.experiment.loss.decoded_prototype_share * total))
        ).indices

    def _set_learning_rate(self, step: int) -> None:
        """Give every optimizer the learning rate of a step; a graph reads it from a tensor."""
        lr = learning_rate(self.experiment.optimizer, step, self.total_steps)
        if self.graph is not None:
            self.learning_rate.fill_(lr)
        set_learning_rate(self.optimizers, lr if self.graph is None else self.learning_rate)

    def _optimise(self, loss: Tensor, decay: float) -> None:
        """Backward, clip, step, average."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip := self.experiment.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            torch._foreach_lerp_(_numbers(self.average), _numbers(self.network), 1 - decay)

    def _check_finite(self, metrics: dict[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        # What the last step did to the weights is in no metric yet.
        if not bad and not all(bool(p.isfinite().all()) for p in self.network.parameters()):
            bad = ["weights"]
        if bad:
            epoch = len(self.history) + 1
            raise TrainingError(f"seed {self.seed} in epoch {epoch} ({', '.join(bad)} not finite)")


def _numbers(network: PrototypeNetwork) -> list[Tensor]:
    """What is averaged of a network: parameters, and statistics that layers normalise by."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]


def _merit(metrics: dict[str, float]) -> tuple[float, float]:
    """What epochs are selected by: accuracy, and among equals the lower cross-entropy."""
    return metrics["accuracy"], -metrics["classification"]


def fit(
    trainer: Trainer, checkpoint: Path, checkpoint_every: int, hooks: Hooks | None = None
) -> FitResult:
    """Train to the end, from the checkpoint where there is one, and return the selected network.

    Raises:
        TrainingError: the loss or the weights are no longer finite.
        CheckpointError: the checkpoint is damaged.
    """
    hooks = hooks or Hooks()
    if checkpoint.exists():
        remedy = "delete it to train from the start"
        read_tensors(checkpoint, "a checkpoint of this training", remedy, trainer.restore)
        # The epoch may have been saved and not yet shown when the run was cut off.
        hooks.on_epoch(trainer.history[-1], trainer.kept_network)
    epochs = trainer.experiment.epochs
    while len(trainer.history) < epochs:
        record = trainer.run_epoch(hooks)
        if record.epoch % checkpoint_every == 0 or record.epoch == epochs:
            write_tensors(trainer.state(), checkpoint)
        hooks.on_epoch(record, trainer.kept_network)
    network = copy.deepcopy(trainer.kept_network)
    network.load_state_dict(trainer.best_state)
    network = network.cpu().eval()
    if not trainer.experiment.model.project:
        return FitResult(network, trainer.history)
    unprojected = copy.deepcopy(network)
    project(network, trainer.train)
    return FitResult(network, trainer.history, unprojected)
