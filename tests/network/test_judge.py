"""The judge: it learns, the same seed gives the same bits, and its file gives it back."""

from pathlib import Path

import pytest
import torch
from torch import nn

from protodl.core.config import TrainingConfig
from protodl.core.experiment_config import JudgeConfig, ModelConfig
from protodl.core.files import CheckpointError
from protodl.core.machine import prepare_machine
from protodl.data.datasets import DATASETS, Split
from protodl.network.checkpoint import save_network
from protodl.network.judge import Judge, judge_accuracy, load_judge, save_judge
from protodl.network.network import PrototypeNetwork
from protodl.training.judge import train_judge


def bars(count: int, seed: int) -> Split:
    """Bright horizontal bars among noise; where the bar is tells the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 80, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    for index, label in enumerate(labels.tolist()):
        images[index, :, 2 * label + 4 : 2 * label + 6] = 255
    return Split(images, labels)


@pytest.fixture(scope="module")
def judge() -> Judge:
    runtime = prepare_machine(TrainingConfig(device="cpu"))
    return train_judge("mnist", bars(300, 0), JudgeConfig(epochs=4, batch_size=20), runtime)


def test_it_learns_what_it_is_shown(judge: Judge) -> None:
    assert judge_accuracy(judge, bars(100, 1)) > 0.9
    assert judge_accuracy(Judge(DATASETS["mnist"]).eval(), bars(100, 1)) < 0.4


def test_the_same_seed_gives_the_same_bits(judge: Judge) -> None:
    runtime = prepare_machine(TrainingConfig(device="cpu"))
    config = JudgeConfig(epochs=4, batch_size=20)
    again = train_judge("mnist", bars(300, 0), config, runtime)
    other = train_judge(
        "mnist", bars(300, 0), JudgeConfig(epochs=4, batch_size=20, seed=1), runtime
    )
    for name, value in judge.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(judge.head.weight, other.head.weight)


def test_images_with_colours_get_two_convolutions_a_stage(tmp_path: Path) -> None:
    for name, expected in {"mnist": 3, "cifar10": 6}.items():
        judge = Judge(DATASETS[name])
        assert sum(isinstance(layer, nn.Conv2d) for layer in judge.modules()) == expected
        save_judge(judge, tmp_path / "judge.pt")
        again = load_judge(tmp_path / "judge.pt").state_dict()
        assert all(torch.equal(value, again[key]) for key, value in judge.state_dict().items())


def test_its_file_gives_it_back(judge: Judge, tmp_path: Path) -> None:
    save_judge(judge, tmp_path / "judge.pt")
    again = load_judge(tmp_path / "judge.pt")
    images = bars(20, 2).images / 255
    with torch.inference_mode():
        torch.testing.assert_close(judge(images), again(images))


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_network(PrototypeNetwork(ModelConfig(), 1, 28), tmp_path / "network.pt")
    for name in ("network.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match="dvc repro judge@"):
            load_judge(tmp_path / name)
