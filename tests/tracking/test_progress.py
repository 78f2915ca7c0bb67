"""What a training shows in a terminal and elsewhere."""

import io
import re
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from protodl.core.experiment_config import ModelConfig
from protodl.core.training_log import EpochRecord, SeedFacts
from protodl.network.network import PrototypeNetwork
from protodl.tracking.kept_pictures import recorded_pictures
from protodl.tracking.live import Tracker, start_seed
from protodl.tracking.pictures import PROTOTYPES, RECONSTRUCTIONS
from protodl.tracking.progress import watch
from protodl.tracking.store import open_current, tracking_uri

pytestmark = pytest.mark.usefixtures("project")

IMAGES = 1000


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=10 * epoch,
        timestamp_ms=1_700_000_000_000 + 1000 * epoch,
        seconds=12.5,
        images_per_second=4321.4,
        learning_rate=1e-3,
        train={"accuracy": 0.91, "loss": 0.12345},
        validation={"accuracy": 0.87654},
        selected=True,
    )


def start(epochs: int) -> Tracker:
    return start_seed(
        SeedFacts(
            row="a",
            seed=0,
            fingerprint="f",
            parameters={"dataset": "mnist", "epochs": epochs},
            environment={},
            data_digest="d",
            num_train=IMAGES,
            num_validation=10,
        )
    )


def network() -> PrototypeNetwork:
    return PrototypeNetwork(ModelConfig(num_prototypes=4), channels=1, image_size=28)


def test_without_a_terminal_each_epoch_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    samples = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shown = network()
    begun = time.time() - psutil.Process().create_time()
    with start(8) as tracker, watch(tracker, samples, 3) as hooks:
        for epoch in range(1, 9):
            hooks.on_step(IMAGES)
            hooks.on_epoch(record(epoch), shown)
    output, errors = capsys.readouterr()
    first, *lines = output.splitlines()
    said = re.fullmatch(r"a seed 0: first step (\d+\.\d) s after the start", first)
    assert said
    age = time.time() - psutil.Process().create_time()
    assert begun - 0.1 < float(said[1]) < age + 0.1
    assert lines[0] == (
        "a seed 0: epoch 1/8  loss 0.123  train 0.9100  validation 0.8765  4,321 images/s  ETA 1:27"
    )
    assert [line.rpartition(" ")[2] for line in lines[1:]] == [
        "1:15", "1:02", "0:50", "0:37", "0:25", "0:12", "0:00",
    ]  # fmt: skip
    assert errors == ""
    client = MlflowClient(tracking_uri())
    history = client.get_metric_history(tracker.run_id, "validation/accuracy")
    assert [metric.step for metric in history] == list(range(1, 9))
    # MLflow's cards begin at step 0: a picture without one would begin with an empty card.
    assert recorded_pictures(open_current(), tracker.run_id).keys() == {
        (name, step) for name in (RECONSTRUCTIONS, PROTOTYPES) for step in (0, 3, 6, 8)
    }
    path = client.download_artifacts(tracker.run_id, "images")
    for file in Path(path).glob("*.png"):
        with Image.open(file) as picture:
            width, height = picture.size
        assert 600 < width < 800  # large when opened
        assert 0.5 < width / height < 2  # and no strip in MLflow's square card


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


def test_what_was_trained_before_a_resume_is_not_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    samples = torch.zeros(1, 1, 28, 28)
    with start(10) as tracker, watch(tracker, samples, 99) as hooks:
        hooks.on_epoch(record(5), network())  # as a training begins that goes on after epoch 5
        for _ in range(5):
            time.sleep(0.12)  # longer than the display's own interval
            hooks.on_step(20)
    text = terminal.getvalue()
    assert "validation 0.8765" in text
    last = text.rstrip().rpartition("\r")[2]
    assert "5.10k/10.0k" in last
    speeds = re.findall(r"([\d.]+)(k?) images/s", text)
    assert speeds
    # 20 images in 0.12 s at most; the 5,000 from before would make it thousands.
    assert max(float(speed) * (1000 if unit else 1) for speed, unit in speeds) < 500
