"""The training loop: schedule, clipping, weight averaging, selection on held-out images, resume.

Shapes: N images, C channels, H x W pixels.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from protodl.augment import augment_pixels, augment_values
from protodl.checkpoint import FORMAT, read, write_atomically
from protodl.config import Experiment, OptimizerConfig
from protodl.datasets import DATASETS, Split, to_unit_interval
from protodl.evaluation import evaluate
from protodl.losses import TERM_NAMES, loss_terms
from protodl.models import PrototypeNetwork
from protodl.records import EpochRecord
from protodl.runtime import Runtime, seeded

INITIAL_LR_DIVISOR = 25  # one-cycle starts at lr / 25 (Smith, Topin 2018)


class TrainingError(RuntimeError):
    """A training that cannot go on."""


@dataclass(frozen=True)
class FitResult:
    """The network of the best epoch on the held-out images, and how training went."""

    network: PrototypeNetwork
    history: list[EpochRecord]

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


def build_network(experiment: Experiment, train: Split, seed: int) -> PrototypeNetwork:
    """A fresh network for an experiment; the same seed gives the same weights."""
    info = DATASETS[experiment.dataset]
    with seeded(seed):
        network = PrototypeNetwork(experiment.model, info.channels, info.size, info.num_classes)
    if experiment.model.prototype_init == "data":
        cases = choose_cases(train.labels, experiment.model.num_prototypes, seed)
        network.set_prototypes(to_unit_interval(train.images[cases]))
    return network


def choose_cases(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of training cases drawn by `seed`, the classes taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    of_class = [order[labels[order] == k] for k in labels.unique()]
    picks = [divmod(position, len(of_class)) for position in range(count)]
    return torch.stack([of_class[k][turn % len(of_class[k])] for turn, k in picks])


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step (0 is the first): constant, or linear up, then cosine down to 0."""
    if config.schedule == "constant":
        return config.lr
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        low = config.lr / INITIAL_LR_DIVISOR
        return low + (config.lr - low) * step / warmup_steps
    done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(network: PrototypeNetwork, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that params.yaml names, over all parameters, prototypes included."""
    parameters = list(network.parameters())
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


@dataclass
class Trainer:
    """One training: network, optimizer and all random state; everything a checkpoint holds."""

    network: PrototypeNetwork
    train: Split
    validation: Split
    experiment: Experiment
    runtime: Runtime
    seed: int
    history: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Put everything on the device and build optimizer, average and random state."""
        device = self.runtime.device
        self.network.to(device).to(memory_format=self.runtime.memory_format)
        self.train = Split(self.train.images.to(device), self.train.labels.to(device))
        self.optimizer = build_optimizer(self.network, self.experiment.optimizer)
        self.average = self._build_average()
        self.order_generator = torch.Generator().manual_seed(self.seed)
        self.augment_generator = torch.Generator(device).manual_seed(self.seed)
        self.best_state: dict[str, Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; a short last batch is a step too."""
        return math.ceil(len(self.train) / self.experiment.batch_size)

    @property
    def evaluated(self) -> PrototypeNetwork:
        """The network that is validated and kept: the averaged one where averaging is on."""
        if self.average is None:
            return self.network
        module = self.average.module
        assert isinstance(module, PrototypeNetwork)
        return module

    def run_epoch(self, hooks: Hooks) -> EpochRecord:
        """Train one epoch, validate, and keep the weights if they are the best so far."""
        start = time.perf_counter()
        metrics = self._train_epoch(hooks)
        train_seconds = time.perf_counter() - start
        self._check_finite(metrics)
        result = evaluate(
            self.evaluated, self.validation, self.experiment.loss, self.runtime.device
        )
        selected = all(_merit(result.as_metrics()) > _merit(r.validation) for r in self.history)
        if selected:
            self.best_state = copy.deepcopy(self.evaluated.state_dict())
        epoch = len(self.history) + 1
        record = EpochRecord(
            epoch=epoch,
            step=epoch * self.steps_per_epoch,
            timestamp_ms=time.time_ns() // 1_000_000,
            seconds=time.perf_counter() - start,
            images_per_second=len(self.train) / train_seconds,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            train=metrics,
            validation=result.as_metrics(),
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
            "optimizer": self.optimizer.state_dict(),
            "order_generator": self.order_generator.get_state(),
            "augment_generator": self.augment_generator.get_state(),
            "best_state": self.best_state,
            "history": json.dumps([record.model_dump() for record in self.history]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; the next epoch is the one after it."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order_generator.set_state(state["order_generator"])
        self.augment_generator.set_state(state["augment_generator"])
        self.best_state = state["best_state"]
        self.history = [EpochRecord(**record) for record in json.loads(state["history"])]

    def _build_average(self) -> AveragedModel | None:
        decay = self.experiment.optimizer.averaging
        if decay == 0:
            return None
        return AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def _train_epoch(self, hooks: Hooks) -> dict[str, float]:
        """One pass over the training images; returns means over images (r1: over batches)."""
        self.network.train()
        count = len(self.train)
        order = (
            torch.randperm(count, generator=self.order_generator)
            if self.experiment.shuffle
            else torch.arange(count)
        ).to(self.runtime.device)
        sums = torch.zeros(len(TERM_NAMES) + 2, device=self.runtime.device)
        step = len(self.history) * self.steps_per_epoch
        for batch in order.split(self.experiment.batch_size):
            sums += self.train_step(batch, step) * len(batch)  # stays on the device: no waiting
            step += 1
            hooks.on_step(len(batch))
        means = (sums / count).tolist()
        return dict(zip(("accuracy", "loss", *TERM_NAMES), means, strict=True))

    def train_step(self, batch: Tensor, step: int) -> Tensor:
        """One optimizer step on images of indices `batch`; returns accuracy, loss and its terms."""
        experiment, runtime = self.experiment, self.runtime
        pixels = augment_pixels(
            self.train.images[batch], experiment.augment, self.augment_generator
        )
        images = augment_values(
            to_unit_interval(pixels), experiment.augment, self.augment_generator
        )
        labels = self.train.labels[batch]
        half = runtime.dtype != torch.float32
        with torch.autocast(runtime.device.type, dtype=runtime.dtype, enabled=half):
            output = self.network(images)
        terms = loss_terms(output, images, labels, experiment.loss.reconstruction_norm)
        loss = terms.total(experiment.loss)
        self._optimise(loss, step)
        correct = (output.logits.argmax(dim=1) == labels).float().mean()
        return torch.stack([correct, loss, *(getattr(terms, name) for name in TERM_NAMES)]).detach()

    def _optimise(self, loss: Tensor, step: int) -> None:
        """Backward, clip, step, average."""
        config = self.experiment.optimizer
        total_steps = self.experiment.epochs * self.steps_per_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _check_finite(self, metrics: dict[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"epoch {len(self.history) + 1}, seed {self.seed}: {', '.join(bad)} not finite; "
                f"lower optimizer.lr (now {self.experiment.optimizer.lr}) or clip"
            )


def _merit(metrics: dict[str, float]) -> tuple[float, float]:
    """What epochs are selected by: accuracy, and among equals the lower loss."""
    return metrics["accuracy"], -metrics["loss"]


def fit(
    trainer: Trainer, checkpoint: Path, checkpoint_every: int, hooks: Hooks | None = None
) -> FitResult:
    """Train to the end, from the checkpoint where there is one, and return the selected network.

    Raises:
        TrainingError: the loss is no longer finite.
        CheckpointError: the checkpoint is damaged.
    """
    hooks = hooks or Hooks()
    if checkpoint.exists():
        trainer.restore(read(checkpoint, "delete it to train from the start"))
        # The epoch may have been saved and not yet shown when the run was cut off.
        hooks.on_epoch(trainer.history[-1], trainer.evaluated)
    epochs = trainer.experiment.epochs
    while len(trainer.history) < epochs:
        record = trainer.run_epoch(hooks)
        if record.epoch % checkpoint_every == 0 or record.epoch == epochs:
            write_atomically(trainer.state(), checkpoint)
        hooks.on_epoch(record, trainer.evaluated)
    network = copy.deepcopy(trainer.evaluated)
    network.load_state_dict(trainer.best_state)
    return FitResult(network.cpu().eval(), trainer.history)
