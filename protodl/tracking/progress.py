"""What a training shows while it runs: a progress display, live curves and pictures in MLflow."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from protodl.core.training_log import EpochRecord
from protodl.tracking.live import Tracker
from protodl.tracking.pictures import training_pictures

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from protodl.network.network import PrototypeNetwork
    from protodl.training.trainer import Hooks

FIRST = 0  # step of the pictures after the first epoch: MLflow's cards begin there


@contextmanager
def watch(tracker: Tracker, samples: "Tensor", every: int) -> Iterator["Hooks"]:
    """Yield hooks that show a training in the terminal and in its MLflow run.

    Args:
        tracker: the run.
        samples: validation images (N, C, H, W) in [0, 1] whose reconstructions are shown.
        every: epochs between two pictures; the first and the last epoch always have them.
    """
    from protodl.training.trainer import Hooks

    title, images = tracker.facts.title, tracker.facts.num_train
    epochs = int(tracker.facts.parameters["epochs"])
    with _bar(title, epochs * images) as bar:

        def on_epoch(record: EpochRecord, network: "PrototypeNetwork") -> None:
            if bar.disable:
                print(f"{title}: {_line(record, epochs)}", flush=True)
            else:
                _advance(bar, record, images)
            tracker.log_epoch(record)
            if record.epoch == 1 or record.epoch % every == 0 or record.epoch == epochs:
                when = f"epoch {record.epoch} of {epochs}"
                step = FIRST if record.epoch == 1 else record.epoch
                for name, picture in training_pictures(network, samples, when).items():
                    tracker.log_picture(name, picture, step)

        yield Hooks(_on_step(bar, title), on_epoch)


def _on_step(bar: "tqdm[Any]", title: str) -> Callable[[int], None]:
    """What advances the display after a step; it tells once how long the first one took."""
    started = False

    def on_step(count: int) -> None:
        nonlocal started
        if not started:
            started = True
            bar.clear()
            print(f"{title}: first step {_process_seconds():.1f} s after the start", flush=True)
        bar.update(count)

    return on_step


def _process_seconds() -> float:
    """Seconds since this process was started, imports included."""
    import psutil

    return time.time() - float(psutil.Process().create_time())


def _bar(title: str, total: int) -> "tqdm[Any]":
    """A progress bar over images, for a terminal only."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=title,
        unit=" images",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.05,
    )


def _advance(bar: "tqdm[Any]", record: EpochRecord, images: int) -> None:
    """Show the end of an epoch, also of one that was trained before a resume."""
    if bar.n != record.epoch * images:
        # What was trained before counts as done, not as speed.
        bar.initial = bar.last_print_n = bar.n = record.epoch * images
    bar.set_postfix_str(f"validation {record.validation['accuracy']:.4f}")


def _line(record: EpochRecord, epochs: int) -> str:
    """One epoch as a line of text, with the time that is left."""
    left = int(record.seconds * (epochs - record.epoch))
    return (
        f"epoch {record.epoch}/{epochs}  loss {record.train['loss']:.3f}  "
        f"train {record.train['accuracy']:.4f}  validation {record.validation['accuracy']:.4f}  "
        f"{record.images_per_second:,.0f} images/s  ETA {left // 60}:{left % 60:02d}"
    )
