"""The weights that come with protodl: of this table, small, and right on people's own pictures."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import protodl
from protodl.core.config import load_params
from protodl.core.experiment_config import ModelConfig
from protodl.core.training_log import SeedEvaluation, SeedLog
from protodl.data.pictures import InputError
from protodl.explanation.loading import SHIPPED, shipped_rows
from protodl.explanation.model import Model
from protodl.explanation.portable import load_portable
from protodl.pipeline import ship
from protodl.pipeline.lock import locked_hashes
from tests.drawn import MANNERS, STROKES, draw, drawn_digits, other_things
from tests.factories import ROOT

ROWS = [
    row
    for row, each in load_params(ROOT / "params.yaml").experiments.items()
    if each.model.architecture != "resnet"
]


def shipped(row: str) -> Model:
    return load_portable(SHIPPED / f"{row}.safetensors")[0]


def test_every_row_but_the_residual_has_its_weights_and_together_they_are_small() -> None:
    assert shipped_rows() == sorted(ROWS)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= ship.LARGEST


def test_the_largest_are_left_out_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "LARGEST", 60)
    files = [tmp_path / name for name in "abcd"]
    for path, size in zip(files, (31, 10, 20, 30), strict=True):
        path.write_bytes(bytes(size))
    assert ship.fitting(files) == [files[1], files[2], files[3]]
    monkeypatch.setattr(ship, "LARGEST", 59)
    assert ship.fitting(files) == [files[1], files[2]]


@pytest.mark.parametrize("row", ROWS)
def test_they_are_those_of_the_committed_table(row: str) -> None:
    """Renewed by `make weights`, which follows `make repro`."""
    model, measured = load_portable(SHIPPED / f"{row}.safetensors")
    folder = ROOT / "results" / "rows" / row
    log = SeedLog.read(folder / "training" / f"seed-{model.seed}.json")
    assert measured["models_md5"] == locked_hashes(ROOT, f"train@{row}")[f"models/{row}"]
    assert measured["fingerprint"] == log.fingerprint
    assert ModelConfig.model_validate(log.parameters["model"]) == model.network.config
    metrics = SeedEvaluation.read(folder / "evaluation" / f"seed-{model.seed}.json").metrics
    assert {name: measured[name] for name in metrics} == metrics


def test_photos_and_drawings_of_digits_are_right() -> None:
    """Three of each of ten manners: what a network of the published size is to read 27 of."""
    model = shipped("mnist-small-deconv")
    wrong = [
        name
        for name, digit, picture in drawn_digits(3)
        if protodl.explain(model, picture).prediction.class_name != str(digit)
    ]
    assert len(wrong) <= 3, wrong


def test_nothing_else_is_explained_without_a_warning() -> None:
    model = shipped("mnist-small-deconv")
    silent = []
    for name, picture in other_things():
        try:
            if not protodl.explain(model, picture).warnings:
                silent.append(name)
        except InputError:
            continue
    assert silent == []


def test_an_answer_comes_within_seconds_without_data_or_project(tmp_path: Path) -> None:
    draw(STROKES[7], MANNERS[0], 1).save(tmp_path / "seven.png")
    command = [sys.executable, "-m", "protodl.cli", "explain", "mnist-small-deconv", "seven.png"]
    started = time.monotonic()
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 60  # 10 s on an idle machine
    assert "7 (" in answer.stdout
    assert "By the weights shipped with protodl: seed 0" in answer.stdout
    with Image.open(tmp_path / "explanations" / "mnist-small-deconv" / "seven.png") as sheet:
        assert sheet.width > 800
