"""The registry of measures: what it says, and that one entry is all that a new measure needs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from protodl.evaluation.measures import MEASURES, Measure
from protodl.report.cards import model_card
from protodl.report.html import html_report
from protodl.report.results import read_row, read_rows
from protodl.report.results_page import results_page
from tests.factories import write_params, write_rows

MEANING = "images that look like toys"
TOY = Measure("toy", MEANING, "explanations", title="toy share", form=".1f")


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_every_measure_is_said_in_one_plain_line(measure: Measure) -> None:
    assert measure.title and measure.meaning
    assert not measure.meaning.endswith(".") and ". " not in measure.meaning
    assert "ceiling" not in measure.title + measure.meaning


def test_values_are_shown_in_the_unit_of_the_heading() -> None:
    accuracy, seconds, coverage = (
        MEASURES[name] for name in ("test_accuracy", "train_seconds", "coverage")
    )
    assert (accuracy.heading, accuracy.text(0.9929)) == ("test accuracy (%)", "99.29")
    assert (seconds.heading, seconds.text(90)) == ("training of one seed (min)", "1.5")
    assert (coverage.heading, coverage.text(10)) == ("coverage", "10")


def test_a_measure_of_one_entry_is_in_json_table_card_and_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = write_params(tmp_path, {"own": {"dataset": "mnist"}})
    folder = tmp_path / "rows"
    write_rows(folder, params, {"own": [0.5]})
    path = folder / "own" / "metrics.json"
    data = json.loads(path.read_text())
    data["mean"]["toy"], data["std"]["toy"] = 0.125, 0.0
    path.write_text(json.dumps(data))
    evaluation = folder / "own" / "evaluation" / "seed-0.json"
    seed = json.loads(evaluation.read_text())
    seed["metrics"]["toy"] = 0.125
    evaluation.write_text(json.dumps(seed))
    monkeypatch.setitem(MEASURES, TOY.name, TOY)
    rows = read_rows(params, folder)
    assert rows[0].record()["toy_mean"] == 0.125
    page = results_page(rows, params, folder, tmp_path / "cards")
    assert "toy share (%)" in page and "12.5 |" in page
    assert "- Toy share (%): images that look like toys." in page
    card = model_card(rows[0], read_row("own", params, folder), params)
    assert "| toy share | 12.50 % | images that look like toys |" in card
    Image.new("RGB", (4, 4)).save(tmp_path / "o.png")
    html = html_report(rows, params, folder, tmp_path / "cards", tmp_path / "o.png")
    assert "<dt>toy share (%)</dt>" in html and "<td>12.5</td>" in html
