"""The teacher: it learns, a seed gives the same bits, its answers are those of its images."""

from pathlib import Path

import pytest
import torch

from protodl.core.config import TrainingConfig
from protodl.core.experiment_config import TeacherConfig
from protodl.core.files import CheckpointError
from protodl.core.machine import Runtime, prepare_machine
from protodl.data.datasets import DATASETS
from protodl.network.teacher import Teacher, load_lesson, save_lesson
from protodl.training.teacher import answers, train_teacher
from tests.network.test_judge import bars

CONFIG = TeacherConfig(epochs=3, batch_size=20, width=4)


@pytest.fixture(name="runtime")
def _runtime() -> Runtime:
    return prepare_machine(TrainingConfig(device="cpu", precision="float32"))


@pytest.fixture(name="teacher")
def _teacher(runtime: Runtime) -> Teacher:
    return train_teacher("mnist", bars(300, 0), CONFIG, runtime)


def test_it_learns_and_answers_in_the_order_of_the_images(
    teacher: Teacher, runtime: Runtime
) -> None:
    shown = bars(100, 1)
    told = answers(teacher, shown, False, runtime)
    assert (told.argmax(dim=1) == shown.labels).float().mean() > 0.9
    torch.testing.assert_close(told[7:8], teacher(shown.images[7:8] / 255))
    mirror = answers(teacher, shown.select(torch.arange(100)), True, runtime)
    expected = (teacher(shown.images / 255) + teacher(shown.images.flip(3) / 255)) / 2
    torch.testing.assert_close(mirror, expected)


def test_the_same_seed_gives_the_same_bits(teacher: Teacher, runtime: Runtime) -> None:
    again = train_teacher("mnist", bars(300, 0), CONFIG, runtime)
    other = train_teacher("mnist", bars(300, 0), CONFIG.model_copy(update={"seed": 2}), runtime)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(teacher.head.weight, other.head.weight)


@pytest.mark.parametrize("size", [9, 28, 32])
def test_it_takes_images_of_any_size(size: int) -> None:
    teacher = Teacher(DATASETS["cifar10"], 4).eval()
    assert teacher(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_it_comes_back_with_its_answers_for_these_images_only(
    teacher: Teacher, tmp_path: Path
) -> None:
    logits, shown, cpu = torch.randn(20, 10), bars(20, 0), torch.device("cpu")
    save_lesson(teacher, logits, path := tmp_path / "mnist.pt")
    lesson = load_lesson(path, shown, cpu)
    assert torch.equal(lesson.logits, logits)
    images = (shown.images / 255).requires_grad_()
    told = lesson.teacher(images)
    assert torch.equal(told, teacher(shown.images / 255))
    told.sum().backward()  # to the images, and no farther
    assert images.grad is not None
    with pytest.raises(CheckpointError, match="for 20 training images, there are 30; train"):
        load_lesson(path, bars(30, 0), cpu)
    with pytest.raises(CheckpointError, match="dvc repro teacher@"):
        load_lesson(tmp_path / "missing.pt", shown, cpu)
    (tmp_path / "mnist.pt").write_bytes(path.read_bytes()[:-99])
    with pytest.raises(CheckpointError, match="dvc repro teacher@"):
        load_lesson(path, shown, cpu)
