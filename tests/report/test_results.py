"""The table from the pipeline's files: exact, in params.yaml's order, and refused where stale."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protodl.core.config import Params, load_params
from protodl.core.training_log import UNTRACKED, ResultsError
from protodl.report.cards import literal
from protodl.report.published import load_published
from protodl.report.results import ResultRow, read_row, read_rows
from protodl.report.results_page import overview_pictures, results_page, row_facts
from protodl.report.tables import (
    SAMPLE_HEADING,
    format_seconds,
    results_table,
    short_table,
    shortfall,
    update_readme,
)
from tests.factories import training, write_params, write_row, write_rows

MNIST = {"dataset": "mnist", "model": {"num_prototypes": 15}}
FASHION = {"dataset": "fashion-mnist", "model": {"decoder": "upconv"}}
CIFAR = {"dataset": "cifar10", "model": {"architecture": "large", "num_prototypes": 50}}
ROOT = Path(__file__).parents[2]
EXPERIMENTS = {"mnist-small-deconv": MNIST, "fashion-mnist-small-upconv": FASHION, "own": CIFAR}


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Three rows with two seeds each, and their files below tmp_path/rows."""
    params = write_params(tmp_path, EXPERIMENTS, seeds=[3, 1])
    accuracies = {
        "own": [0.7, 0.8],
        "mnist-small-deconv": [0.991, 0.993],
        "fashion-mnist-small-upconv": [0.9, 0.9],
    }
    write_rows(tmp_path / "rows", params, accuracies)
    return params


@pytest.fixture
def rows(params: Params, tmp_path: Path) -> list[ResultRow]:
    return read_rows(params, tmp_path / "rows")


def one_row(tmp_path: Path, accuracy: float, row: str = "mnist-small-deconv") -> list[ResultRow]:
    params = write_params(tmp_path, {row: MNIST})
    write_rows(tmp_path / "rows", params, {row: [accuracy]})
    return read_rows(params, tmp_path / "rows")


def cells(table: str, row: str) -> list[str]:
    """The cells of a row of a Markdown table, the first one of several."""
    line = next(line for line in table.splitlines() if line.startswith("|") and row in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_row_sums_up_its_seeds(rows: list[ResultRow]) -> None:
    assert [row.row for row in rows] == list(EXPERIMENTS)
    first = rows[0].record()
    assert first.pop("test_accuracy_mean") == pytest.approx(0.992, abs=1e-15)
    assert first.pop("test_accuracy_std") == pytest.approx(0.002 / 2**0.5, abs=1e-15)
    assert first.pop("validation_accuracy_mean") == pytest.approx(0.622, abs=1e-15)
    assert first.pop("calibration_error_mean") == pytest.approx(0.0375)
    # Nine standard deviations for two seeds; Wilson's ends for 8 images.
    assert first.pop("test_accuracy_ci95_seeds") == pytest.approx((0.9792938, 1))
    assert first.pop("test_accuracy_ci95_images") == pytest.approx((0.66491, 0.99987), abs=1e-5)
    assert first.pop("difference") == pytest.approx(0.0018, abs=1e-15)
    assert first.pop("train_seconds_mean") == pytest.approx(100 / 3 + 2)
    assert first.pop("environment")["processor"] == "Abacus, 2 cores"
    assert first == {
        "row": "mnist-small-deconv",
        "dataset": "mnist",
        "architecture": "small",
        "decoder": "deconv",
        "num_prototypes": 15,
        "num_seeds": 2,
        "seeds": [3, 1],
        "selected_epochs": [2, 2],
        "published_accuracy": 0.9902,
        "paper_accuracy": 0.9922,
        "num_test": 8,
        "judge_accuracy": 0.97,
        "class_accuracy": {"0": 0.75, "1": 1.0},
        "decode_agreement_mean": 14 / 15,
        "cycle_identity_mean": 13 / 15,
        "reconstruction_agreement_mean": 0.875,
        "independent_agreement_mean": 12 / 15,
        "independent_reconstruction_agreement_mean": 0.75,
        "case_agreement_mean": 11 / 15,
        "unprojected": {},
        "purity25_mean": 0.1 + 0.2,
        "coverage_min": 9,
        "distinct_prototypes_mean": 10.0,
        "num_epochs": 2,
        "run_id": "0123456789abcdef" * 2,
        "data_source": "full",
    }
    assert (rows[1].decoder, rows[2].architecture) == ("upconv", "large")
    assert (rows[2].published_accuracy, rows[2].difference) == (None, None)
    assert rows[2].class_accuracy == {"airplane": 0.75, "automobile": 1.0}


def test_facts_that_differ_between_seeds_are_all_kept(params: Params, tmp_path: Path) -> None:
    logs = [
        training(params, "own", seed, environment={"torch": "2.15.0", "device": device})
        for seed, device in zip(params.seeds, ("cuda", "cpu"), strict=True)
    ]
    write_row(tmp_path / "rows", [(log, 0.5) for log in logs])
    (row,) = [row for row in read_rows(params, tmp_path / "rows") if row.row == "own"]
    assert row.environment == {"torch": "2.15.0", "device": "cuda / cpu"}


def test_a_removed_row_vanishes_and_a_new_one_is_missed(params: Params, tmp_path: Path) -> None:
    fewer = write_params(tmp_path, {"own": CIFAR}, seeds=params.seeds)
    assert [row.row for row in read_rows(fewer, tmp_path / "rows")] == ["own"]
    more = write_params(tmp_path, {**EXPERIMENTS, "new": MNIST}, seeds=params.seeds)
    with pytest.raises(ResultsError, match=r"rows/new/.*dvc repro"):
        read_rows(more, tmp_path / "rows")


STALE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "learning rate": (
        {**MNIST, "optimizer": {"lr": 1e-3}},
        {},
        r"trained with optimizer.lr = 0.004, params.yaml has 0.001",
    ),
    "added seed": (MNIST, {"seeds": [3, 1, 0]}, "seed-0.json: missing"),
    "removed seed": (MNIST, {"seeds": [3]}, "metrics.json is of other seeds"),
}


@pytest.mark.parametrize("case", STALE)
@pytest.mark.usefixtures("params")
def test_results_of_other_parameters_are_refused(case: str, tmp_path: Path) -> None:
    experiment, changes, message = STALE[case]
    changed = write_params(
        tmp_path, {"mnist-small-deconv": experiment}, **{"seeds": [3, 1], **changes}
    )
    with pytest.raises(ResultsError, match=message) as error:
        read_row("mnist-small-deconv", changed, tmp_path / "rows")
    assert "rows/mnist-small-deconv" in str(error.value)
    assert "dvc repro" in str(error.value)


def test_results_that_do_not_belong_together_are_refused(params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    again = training(params, "own", 1, train_seconds=44.0)
    again.write(folder / "own" / "training" / "seed-1.json")
    with pytest.raises(ResultsError, match="seed 1 was trained after it was evaluated"):
        read_row("own", params, folder)
    held = training(params, "own", 1, num_validation=400)
    held.write(folder / "own" / "training" / "seed-1.json")
    with pytest.raises(ResultsError, match=r"400 images .* training.validation_size is 5000"):
        read_row("own", params, folder)
    other = training(params, "own", 1).model_copy(update={"row": "mnist-small-deconv"})
    other.write(folder / "own" / "training" / "seed-1.json")
    with pytest.raises(ResultsError, match="recorded as row 'mnist-small-deconv'"):
        read_row("own", params, folder)


@pytest.mark.parametrize("name", ["metrics.json", "training/seed-1.json", "evaluation/seed-3.json"])
def test_a_missing_or_damaged_file_is_named(name: str, params: Params, tmp_path: Path) -> None:
    path = tmp_path / "rows" / "own" / name
    path.write_text(path.read_text()[:40])
    with pytest.raises(ResultsError, match=re.escape(f"{path}: cannot be read")):
        read_rows(params, tmp_path / "rows")
    path.unlink()
    with pytest.raises(ResultsError, match=re.escape(f"{path}: missing; run")):
        read_rows(params, tmp_path / "rows")


def test_a_metric_that_is_not_there_is_named(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "rows" / "own" / "metrics.json"
    data = json.loads(path.read_text())
    del data["mean"]["purity25"], data["digest"]
    path.write_text(json.dumps(data))
    with pytest.raises(ResultsError, match="row 'own': its metrics lack 'purity25'"):
        read_rows(params, tmp_path / "rows")


def test_the_table_shows_every_digit_and_the_comparison(rows: list[ResultRow]) -> None:
    table = results_table(rows)
    assert cells(table, "mnist-small-deconv") == [
        "mnist-small-deconv", "99.20 ± 0.14", "99.02", "+0.18", "99.22", "62.20", "0.6", "2",
        "01234567",
    ]  # fmt: skip
    certainty, explanations = table.split("\n\n")[-2:]
    assert cells(certainty, "mnist-small-deconv")[1:] == [
        "97.93 to 100.00", "66.49 to 99.99", "3.75", "75.00",
    ]  # fmt: skip
    heads = cells(explanations, "coverage")
    assert dict(zip(heads, cells(explanations, "mnist-small-deconv"), strict=True)) == {
        "row": "mnist-small-deconv",
        "decode agreement (%)": "93",
        "cycle identity (%)": "87",
        "reconstruction agreement (%)": "88",
        "independent agreement (%)": "80",
        "reconstruction agreement (independent) (%)": "75",
        "case agreement (%)": "73",
        "purity@25 (%)": "30",
        "coverage": "9",
        "distinct prototypes": "10 of 15",
        "independent classifier (%)": "97.0",
    }
    assert cells(table, "fashion")[1:4] == ["90.00 ± 0.00", "90.39", "-0.39"]
    assert cells(table, "own")[1:5] == ["75.00 ± 7.07", "–", "–", "–"]
    assert "published numbers were selected on the test set" in table
    assert "mean ± standard deviation over 2 seeds" in table


def test_durations_in_words() -> None:
    assert [format_seconds(s) for s in (5.4, 89, 90, 5399, 7000, 36000)] == [
        "5 s", "89 s", "2 min", "90 min", "1 h 57 min", "10 h 00 min",
    ]  # fmt: skip


def test_a_row_trained_without_mlflow_has_the_run_of_its_other_seeds_or_none(
    params: Params, tmp_path: Path
) -> None:
    first, second = (training(params, "own", seed) for seed in params.seeds)
    for parents, run_id, cell in [
        ((UNTRACKED, "abcdefghij"), "abcdefghij", "abcdefgh"),
        ((UNTRACKED, UNTRACKED), UNTRACKED, "–"),
    ]:
        logs = [
            log.model_copy(update={"parent_run_id": parent})
            for log, parent in zip((first, second), parents, strict=True)
        ]
        write_row(tmp_path / "rows", [(log, 0.5) for log in logs])
        rows = read_rows(params, tmp_path / "rows")
        assert rows[2].run_id == run_id
        assert cells(results_table(rows), "own")[-1] == cell


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    (row,) = one_row(tmp_path, 0.991)
    assert row.std["test_accuracy"] == 0
    assert cells(results_table([row]), row.row)[1] == "99.10"
    assert "Test accuracy: one seed." in results_table([row])
    assert row.record()["test_accuracy_ci95_seeds"] is None
    certainty = results_table([row]).split("\n\n")[-2]
    assert cells(certainty, row.row)[1:3] == ["–", "66.36 to 99.98"]


def test_rows_that_fall_short_are_named(rows: list[ResultRow], tmp_path: Path) -> None:
    assert shortfall(rows) == (
        "Below the published number: 1 of 2 rows: fashion-mnist-small-upconv (-0.39)."
    )
    assert shortfall(rows) in results_table(rows)
    assert shortfall(rows[:1]) == "Below the published number: none of 1 row."
    assert shortfall(rows[2:]) == ""
    (equal,) = one_row(tmp_path, 0.9902)
    assert equal.reaches_published
    # As a mean over seeds may come out.
    rounded = equal.model_copy(update={"difference": -1.1e-16})
    assert rounded.reaches_published
    assert cells(results_table([rounded]), rounded.row)[3] == "+0.00"
    (missed,) = one_row(tmp_path, 0.9901)
    assert shortfall([missed]).endswith(": mnist-small-deconv (-0.01).")


def test_the_sample_is_compared_with_nothing(tmp_path: Path) -> None:
    params = write_params(tmp_path, EXPERIMENTS, source="sample")
    write_rows(tmp_path / "rows", params, {row: [0.5] for row in EXPERIMENTS})
    rows = read_rows(params, tmp_path / "rows")
    assert {row.data_source for row in rows} == {"sample"}
    assert rows[0].published_accuracy == 0.9902
    assert rows[0].difference is None
    page = results_page(rows, params, Path("rows"), Path("cards"))
    assert page.startswith(f"# Results\n\n{SAMPLE_HEADING}\n")
    for text in (page, results_table(rows), short_table(rows)):
        assert "NOT comparable" in text
        assert "| difference" not in re.sub(" +", " ", text)
        assert "99.02" not in text and "99.22" not in text
        assert "Below the published" not in text
        assert "50.00" in cells(text, "own")[1]
    assert "`make demo`" in page


def test_the_page_tells_of_each_row_and_shows_its_pictures(
    rows: list[ResultRow], params: Params, tmp_path: Path
) -> None:
    page = results_page(rows, params, Path("rows"), Path("cards"))
    assert all(part in page for part in results_table(rows).split("\n\n"))
    assert page.count("Decode agreement (%): prototypes whose") == 1
    assert "`make repro`; seeds: 3, 1." in page
    assert "Abacus, 2 cores, device cpu, threads 2, float32, torch 2.15.0" in page
    assert "Training time: 4 min" in page  # six trainings of about 35 seconds
    sections = page.split("\n### ")[1:]
    assert [section.splitlines()[0] for section in sections] == list(EXPERIMENTS)
    for row, section in zip(rows, sections, strict=True):
        assert f"`{row.run_id}`" in section
        assert "Kept epoch of 2: 2 (seed 3), 2 (seed 1)." in section
        weakest, strongest = sorted(row.class_accuracy, key=row.class_accuracy.__getitem__)
        classes = f"{literal(f'{weakest}: 75.0')}, {literal(f'{strongest}: 100.0')}."
        assert f"Test accuracy of each class (%), the lowest first: {classes}" in section
        links = re.findall(r'<img src="(.+?)"', section)
        assert len(links) == 6
        for link in links:
            assert (tmp_path / link).is_file()
            assert row.row in link


def test_the_readme_s_block_is_replaced(rows: list[ResultRow], tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Title\n\n<!-- results -->\nold\n<!-- /results -->\n\nBelow\n")
    for _ in range(2):
        update_readme(path, rows)
        text = path.read_text()
        assert text.startswith("# Title\n\n<!-- results -->\n")
        assert text.endswith("\n<!-- /results -->\n\nBelow\n")
        assert "old" not in text
        assert text.count(short_table(rows)) == 1
    assert cells(text, "mnist-small-deconv]") == [
        "[mnist-small-deconv](RESULTS.md#mnist-small-deconv)",
        "99.20 ± 0.14", "99.02", "0.6",
    ]  # fmt: skip


@pytest.fixture(name="committed")
def _committed() -> list[ResultRow]:
    if not (ROOT / "results" / "results.json").is_file():
        pytest.skip("results/ is not there yet: `make repro` makes it, `make table` the block")
    return read_rows(load_params(ROOT / "params.yaml"), ROOT / "results" / "rows")


def test_the_readme_shows_the_committed_results(committed: list[ResultRow]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- results -->")[2].partition("<!-- /results -->")[0]
    assert block.strip() == short_table(committed), "run `make table`"


def test_the_committed_json_comes_from_the_committed_rows(committed: list[ResultRow]) -> None:
    text = json.dumps([row.record() for row in committed], indent=1) + "\n"
    assert text == (ROOT / "results" / "results.json").read_text(encoding="utf-8")


def test_pages_show_every_accuracy_of_the_committed_json(committed: list[ResultRow]) -> None:
    assert len(committed) == len(load_params(ROOT / "params.yaml").experiments)
    for page in ("README.md", "RESULTS.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for row in committed:
            assert f"{100 * row.mean['test_accuracy']:.2f} ± " in text, (page, row.row)


def test_of_moved_prototypes_only_what_changed_is_said(
    rows: list[ResultRow], tmp_path: Path
) -> None:
    params = write_params(tmp_path, EXPERIMENTS, seeds=[3, 1])
    same = rows[0].model_copy(update={"unprojected": dict(rows[0].mean)})
    assert not [fact for fact in row_facts(same, params) if "Moving" in fact]
    before = {**rows[0].mean, "cycle_identity": 0.5}
    moved = rows[0].model_copy(update={"unprojected": before})
    (fact,) = [fact for fact in row_facts(moved, params) if "Moving" in fact]
    assert fact.endswith("(`model.project`) changed cycle identity (%) 50 → 87.")


def test_only_parameters_that_are_not_the_defaults_are_listed(
    rows: list[ResultRow], params: Params
) -> None:
    facts = [row_facts(row, params)[0] for row in rows]
    assert facts[0] == "Parameters that differ from the defaults: none."
    assert facts[1] == "Parameters that differ from the defaults: model.decoder `upconv`."
    assert "model.num_prototypes `50`" in facts[2]


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        "<!-- results --> only the first",
        "only the second <!-- /results -->",
        "<!-- /results --> turned <!-- results -->",
        "<!-- results --><!-- /results --> twice <!-- results --><!-- /results -->",
    ],
)
def test_a_readme_without_its_marks_stays_as_it_is(
    text: str, rows: list[ResultRow], tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"README.md: needs the line <!-- results -->"):
        update_readme(path, rows)
    assert path.read_text() == text


def test_the_published_numbers_have_a_source_and_a_protocol() -> None:
    published = load_published()
    assert len(published.port.test_accuracy) == 7
    assert "test set" in published.port.protocol
    paper = {"mnist-small-deconv": 0.9922, "fashion-mnist-small-deconv": 0.8995}
    assert published.paper.test_accuracy == paper
    for table in (published.port, published.paper):
        assert table.source
        assert all(0.5 < share < 1 for share in table.test_accuracy.values())


@pytest.mark.parametrize("module", ["report.results", "report.results_page", "tracking.project"])
def test_importing_it_is_light(module: str) -> None:
    heavy = "{'mlflow', 'torch', 'numpy', 'matplotlib'}"
    code = f"import sys, protodl.{module}; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_a_damaged_file_of_a_judge_is_named(params: Params, tmp_path: Path) -> None:
    (tmp_path / "judges" / "mnist.json").write_text("{")
    with pytest.raises(ResultsError, match=r"judges/mnist\.json: is damaged"):
        read_rows(params, tmp_path / "rows")
    (tmp_path / "judges" / "mnist.json").unlink()
    first, second, _ = read_rows(params, tmp_path / "rows")
    assert (first.judge_accuracy, second.judge_accuracy) == (None, 0.97)
    assert cells(results_table([first, second]).rpartition("| row")[2], "mnist-small")[-1] == "–"


def test_the_overview_shows_the_most_accurate_row_of_each_data_set(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    params = write_params(tmp_path, {"a": MNIST, "b": MNIST, "c": CIFAR})
    write_rows(tmp_path / "rows", params, {name: [0.9] for name in names})
    a, b, c = read_rows(params, tmp_path / "rows")
    b = b.model_copy(update={"mean": {**b.mean, "validation_accuracy": 0.99}})
    shown = [path.parent.parent.name for path in overview_pictures([a, b, c], Path("rows"))]
    assert shown == ["b", "c"]
    again = [path.parent.parent.name for path in overview_pictures([b, a, c], Path("rows"))]
    assert again == ["b", "c"]
