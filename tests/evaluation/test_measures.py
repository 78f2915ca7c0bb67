"""The registry of measures: what it says, and that one entry is all that a new measure needs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from protodl.evaluation.measures import MEASURES, Measure, select
from protodl.report.cards import model_card
from protodl.report.html import html_report
from protodl.report.results import read_row, read_rows
from protodl.report.results_page import results_page
from protodl.report.tables import NONE
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


def test_a_count_of_prototypes_says_of_how_many(tmp_path: Path) -> None:
    params = write_params(tmp_path, {"own": {"dataset": "cifar10"}}, seeds=[0, 1])
    folder = tmp_path / "rows"
    write_rows(folder, params, {"own": [0.5, 0.6]})
    (row,) = read_rows(params, folder)
    assert row.record()["distinct_prototypes_mean"] == 8.5
    page = results_page([row], params, folder, tmp_path / "cards")
    assert " 8.5 of 15 |" in page
    card = model_card(row, read_row("own", params, folder), params)
    assert "| distinct prototypes | 8.5 of 15 |" in card
    assert "Of the 15 prototypes 8.5 look different" in card


def test_evaluations_from_before_a_measure_still_make_tables(tmp_path: Path) -> None:
    params = write_params(tmp_path, {"own": {"dataset": "mnist"}, "older": {"dataset": "mnist"}})
    folder = tmp_path / "rows"
    write_rows(folder, params, {"own": [0.5], "older": [0.75]})
    for path in (folder / "older").rglob("*.json"):
        data = json.loads(path.read_text())
        del data["digest"]
        for part in ("mean", "std", "metrics"):
            for name in ("calibration_error", "distinct_prototypes"):
                data.get(part, {}).pop(name, None)
        path.write_text(json.dumps(data))
    rows = read_rows(params, folder)
    assert [name for name in rows[0].record() if name not in rows[1].record()] == [
        "calibration_error_mean",
        "distinct_prototypes_mean",
    ]
    page = results_page(rows, params, folder, tmp_path / "cards")
    _, certainty, explanations = (row for row in page.splitlines() if row.startswith("| older"))
    assert certainty.split()[-4:] == [NONE, "|", "75.00", "|"]
    assert explanations.split("|")[-3].strip() == NONE  # before the independent classifier's own
    card = model_card(rows[1], read_row("older", params, folder), params)
    assert "distinct" not in card and "look different" not in card
    Image.new("RGB", (4, 4)).save(tmp_path / "o.png")
    html = html_report(rows, params, folder, tmp_path / "cards", tmp_path / "o.png")
    assert f"<td>{NONE}</td>" in html and "<td>8 of 15</td>" in html
    with pytest.raises(KeyError, match="coverage"):
        select({name: 1.0 for name in MEASURES if name != "coverage"})


def test_a_measure_of_one_entry_is_in_json_table_card_and_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = write_params(tmp_path, {"own": {"dataset": "mnist"}})
    folder = tmp_path / "rows"
    write_rows(folder, params, {"own": [0.5]})
    path = folder / "own" / "metrics.json"
    data = json.loads(path.read_text())
    data["mean"]["toy"], data["std"]["toy"] = 0.125, 0.0
    del data["digest"]
    path.write_text(json.dumps(data))
    evaluation = folder / "own" / "evaluation" / "seed-0.json"
    seed = json.loads(evaluation.read_text())
    seed["metrics"]["toy"] = 0.125
    del seed["digest"]
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
