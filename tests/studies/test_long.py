"""The study of longer training: its rows, and what its page says of given trainings."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from protodl.core.config import load_params
from studies.long import picture, report
from studies.metrics import StudyMetrics
from tests.factories import run_main, training, write_params, write_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "long"
STUDY = load_params(FOLDER / "params.yaml")
PROJECT = load_params(ROOT / "params.yaml")


def test_rows_are_the_tables_but_about_ten_times_as_long() -> None:
    assert len(STUDY.experiments) >= 2
    for row, experiment in STUDY.experiments.items():
        short = PROJECT.experiment(row)
        assert 8 <= experiment.epochs / short.epochs <= 12
        assert experiment == short.model_copy(update={"epochs": experiment.epochs})
    assert (STUDY.training, STUDY.data) == (PROJECT.training, PROJECT.data)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A table of one row and two seeds, and beside it the study with one seed of it."""
    params = write_params(tmp_path, {"a": {"dataset": "mnist"}}, seeds=(0, 1))
    write_rows(tmp_path / "rows", params, {"a": [0.9, 0.9]})
    data = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    data |= {"base": "params.yaml", "experiments": {"a": {"dataset": "mnist", "row": "a"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    training(load_params(tmp_path / "study.yaml"), "a", 0).write(
        tmp_path / "long" / "a" / "training" / "seed-0.json"
    )
    measured = {"validation_accuracy": 0.7, **dict.fromkeys(report.QUALITY, 0.5)}
    StudyMetrics(mean=measured, seeds=[measured]).write(tmp_path / "long" / "a" / "metrics.json")
    return tmp_path


def run_report(folder: Path) -> int:
    paths = {"params": "study.yaml", "project": "params.yaml", "long": "long", "rows": "rows"}
    paths |= {"markdown": "L.md", "picture": "l.png", "results": "l.json"}
    return run_main(report.main, folder, paths)


def test_the_page_has_both_lengths(folder: Path) -> None:
    assert run_report(folder) == 0
    text = " ".join((folder / "L.md").read_text().split())
    assert "| 62.05 → 70.00 | 93 → 50 |" in text
    assert "Long trainings: 1 seed each" in text and "test split was not read" in text
    (record,) = json.loads((folder / "l.json").read_text())
    assert record["validation_accuracy"] == pytest.approx([0.6205, 0.7])
    with Image.open(folder / "l.png") as drawn:
        assert drawn.width > 500


def test_a_missing_result_is_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "long" / "a" / "metrics.json").unlink()
    assert run_report(folder) == 1
    assert "long/a/metrics.json" in capfd.readouterr().err


def test_the_picture_has_a_line_for_each_training() -> None:
    params = STUDY.model_copy(update={"seeds": [0]})
    row = next(iter(STUDY.experiments))
    logs = [training(params, row, seed) for seed in (0, 1, 2)]
    figure = picture.lengths_figure({row: (logs[:2], logs[2:]), "other": (logs[:1], logs[1:])})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    with pytest.raises(ValueError, match="no row"):
        picture.lengths_figure({})
