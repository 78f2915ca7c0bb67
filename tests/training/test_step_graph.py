"""Recorded steps: the same training as step by step; the recording itself needs a GPU."""

import pytest
import torch

from protodl.core.config import TrainingConfig
from protodl.core.experiment_config import AugmentConfig, Experiment, LossConfig, OptimizerConfig
from protodl.core.machine import Runtime, prepare_machine
from protodl.data.datasets import Split
from protodl.training.prototypes import build_network
from protodl.training.step_graph import EAGER_STEPS, StepGraph
from protodl.training.trainer import Hooks, Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def test_the_first_steps_of_each_kind_run_as_they_are() -> None:
    seen: list[int] = []

    def step(batch: torch.Tensor) -> torch.Tensor:
        seen.append(int(batch[0]))
        return batch * 2

    graph = StepGraph([])
    for number in range(EAGER_STEPS):
        for kind in (False, True):
            batch = torch.tensor([number])
            assert torch.equal(graph.run(kind, batch, step), batch * 2)
    assert seen == [number for number in range(EAGER_STEPS) for _ in range(2)]


def test_nothing_is_recorded_without_a_gpu() -> None:
    runtime = prepare_machine(TrainingConfig(device="cpu", cuda_graph=True, threads=1))
    assert not runtime.cuda_graph


@needs_cuda
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_recorded_steps_train_as_eager_ones_do(optimizer: str) -> None:
    experiment = Experiment(
        dataset="mnist",
        augment=AugmentConfig(elastic_alpha=20, shift=1, flip=True),
        loss=LossConfig(
            cycle=1.0,
            decoded_prototype_classification=1.0,
            diversity=0.1,
            decoded_prototype_start=0.5,
        ),
        optimizer=OptimizerConfig.model_validate({"name": optimizer, "averaging": 0.9}),
        epochs=4,
        batch_size=30,
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 1, 28, 28), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(200) % 10)
    losses = {}
    for recorded in (False, True):
        device = torch.device("cuda")
        runtime = Runtime(device, torch.float32, torch.channels_last, 1, recorded)
        network = build_network(experiment, split, 0)
        trainer = Trainer(network, split, split, experiment, runtime, 0)
        losses[recorded] = [trainer.run_epoch(Hooks()).train["loss"] for _ in range(4)]
        assert (trainer.graph is not None) == recorded
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
