"""Whatever stands in params.yaml: it can be trained, or is refused in a few short lines."""

import copy
import os
import time
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from protodl.core.check import check_params
from protodl.core.config import ConfigError, Params, load_params
from protodl.core.experiment_config import Experiment
from protodl.core.machine import Runtime
from protodl.data.datasets import Split
from protodl.network.losses import Lesson, asks_teacher
from protodl.training.prototypes import build_network
from protodl.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
OWN = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE = yaml.safe_load(OWN)
ROWS = load_params(ROOT / "params.yaml").experiments
FULL = int(os.environ.get("PROTODL_FUZZ_PARAMS", "5000"))
SECONDS, BYTES = 2.0, 4000
MOST_PROTOTYPES = 500  # of an accepted row that is tried; more only take longer

HUGE = st.sampled_from([2**31, 2**63, 2**70, 10**12, -(10**12), 10**29, 1e300, -1e300, 5e-324])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 600),
    HUGE,
    st.floats(allow_subnormal=False),  # a training has this process take them for zero
    st.text(max_size=12),
    st.sampled_from(["mnist", "none", "upconv", "port", "sgd", "l1", "x" * 5000, "\u20ac\ud83d"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)
# What stands in the text of a file in place of something, or between two pieces of it.
PIECES = st.one_of(
    st.sampled_from(
        """
        010 -07 0o17 0x1F 0b11 1_000 12:30 12:30.5 2026-13-45 1999-12-31T25:61:61Z 1e5 1e999 .inf
        -.NaN yes off ~ = << ! !! !!int !!float !!bool !!timestamp !!binary !!set !!omap
        !!python/name:os !!int,zwei & &a *a *nobody ? - : , [ ] { } | > % @ ` # ' " --- ... \\t
        """.split()
    ),
    st.sampled_from(["\t", "\n", "\r", "\x00", "\x85", "\u2028", "\ufeff", "\n  ", ": {", "  - "]),
    st.sampled_from(["9" * 6000, "[" * 3000, "{a: " * 3000, "? " * 400, "- " * 400, "&b [*b, *b]"]),
    st.text(max_size=8),
)


def keys_of(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*above, key))


@st.composite
def wrong_values(draw: st.DrawFn) -> str:
    """The project's own file with one to three values, keys or sections that are others."""
    tree = copy.deepcopy(TREE)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(list(keys_of(tree))))
        section = reduce(dict.__getitem__, above, tree)
        change = draw(st.sampled_from(["value", "value", "value", "gone", "name", "more"]))
        value = section.pop(key) if change in ("gone", "name") else draw(VALUES)
        if change == "value":
            section[key] = value
        elif change != "gone":
            section[draw(st.text(max_size=9) | st.sampled_from(["judges", "a" * 300]))] = value
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=draw(st.booleans())))


@st.composite
def wrong_text(draw: st.DrawFn) -> bytes:
    """The text of the file with pieces cut out, put in, or repeated; sometimes with wrong bytes."""
    text = OWN
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 3, 30, 400]))
        repeated = text[start:end] * draw(st.sampled_from([0, 0, 1, 2, 50]))
        text = text[:start] + draw(PIECES) + repeated + text[end:]
    data = text.encode(errors="surrogatepass")
    where = draw(st.integers(0, len(data)))
    return (
        data[:where] + draw(st.sampled_from([b"", b"", b"", b"\xff", b"\xe2\x82"])) + data[where:]
    )


def a_step(params: Params, experiment: Experiment) -> None:
    """Build a row on a few random images and do one step of its training."""
    facts = params.dataset(experiment.dataset)
    size = facts.facts.size if facts.facts else facts.size
    count = facts.facts.num_classes if facts.facts else 2
    channels = facts.channels or (3 if size == 32 else 1)
    images = torch.randint(0, 256, (24, channels, size or 0, size or 0), dtype=torch.uint8)
    names = tuple(str(number) for number in range(count))
    split = Split(images, torch.arange(24) % count, names)
    cpu = Runtime(torch.device("cpu"), torch.float32, torch.contiguous_format, 1)
    lesson = None
    if asks_teacher(experiment):
        lesson = Lesson(
            torch.randn(24, count), lambda images: images.mean((1, 2, 3))[:, None].expand(-1, count)
        )
    network = build_network(experiment, split, 0, lesson)
    trainer = Trainer(network, split, split, experiment, cpu, 0, lesson)
    indices = torch.arange(24)[: experiment.batch_size]
    trainer.train_step(indices, step=trainer.total_steps // 2)


def must_be_trained_or_refused(path: Path, content: str | bytes) -> None:
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    )
    start, message = time.process_time(), ""
    params = None
    try:
        params = check_params(path)
    except ConfigError as error:
        message = str(error)
    assert time.process_time() - start < SECONDS
    assert len(message.encode()) <= BYTES
    known = (f"{path}: ", "and further mistakes")
    assert all(line.startswith(known) for line in message.splitlines()), message
    event("accepted" if params else "refused")
    if params:
        rows = params.experiments.items()
        changed = [row for name, row in rows if row != ROWS.get(name)]
        for row in changed[:1]:
            if row.model.num_prototypes <= MOST_PROTOTYPES:
                a_step(params, row)


def many(count: int) -> settings:
    """Hypothesis's settings: that many inputs, the same in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.mark.faults
@many(100)
@given(content=wrong_values() | wrong_text())
def test_a_file_can_be_trained_or_is_refused(content: str | bytes, tmp_path: Path) -> None:
    must_be_trained_or_refused(tmp_path / "params.yaml", content)


@pytest.mark.faults
@pytest.mark.slow
@many(FULL)
@given(content=wrong_values() | wrong_text())
def test_thousands_of_files_can_be_trained_or_are_refused(
    content: str | bytes, tmp_path: Path
) -> None:
    must_be_trained_or_refused(tmp_path / "params.yaml", content)
