"""The study of what explanations cost: its rows, and what its page says of given trainings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from protodl.core.config import flatten, load_params
from protodl.core.training_log import SeedLog
from studies.metrics import StudyMetrics
from studies.price import report
from tests.factories import run_main, training, write_params, write_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "price"
STUDY = load_params(FOLDER / "params.yaml")
PROJECT = load_params(ROOT / "params.yaml")
QUALITY = dict.fromkeys(report.QUALITY, 0.5)


def test_rows_differ_from_the_tables_in_the_terms_for_explanations_only() -> None:
    assert STUDY.seeds == PROJECT.seeds
    # What prototypes cost the residual rows is the study of modern networks' question.
    architectures = {row: each.model.architecture for row, each in PROJECT.experiments.items()}
    published = [row for row, name in architectures.items() if name != "resnet"]
    assert list(STUDY.experiments) == published
    for row, experiment in STUDY.experiments.items():
        before = flatten(PROJECT.experiment(row).model_dump())
        after = flatten(experiment.model_dump())
        assert {key: value for key, value in after.items() if value != before[key]} == {
            "model.project": "False",
            "loss.decoded_prototype_classification": "0.0",
            "loss.recognition": "0.0",
            "loss.cycle": "0.0",
            "loss.diversity": "0.0",
        }
    assert (STUDY.training, STUDY.data) == (PROJECT.training, PROJECT.data)


def write_study(folder: Path, rows: Mapping[str, Mapping[str, object]]) -> None:
    """The study's own params.yaml, with these rows of the table in `folder`."""
    data = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    own = {name: {"dataset": row["dataset"], "row": name} for name, row in rows.items()}
    text = yaml.safe_dump({**data, "base": "params.yaml", "experiments": own}, sort_keys=False)
    (folder / "study.yaml").write_text(text)


def build(folder: Path, better_by: float, seeds: Sequence[int] = (0, 1)) -> None:
    """A table of two rows and two seeds (held out 0.620, 0.621), and the study beside it."""
    rows = {"a": {"dataset": "mnist"}, "b": {"dataset": "cifar10"}}
    params = write_params(folder, rows, seeds=seeds)
    write_study(folder, rows)
    write_rows(folder / "rows", params, dict.fromkeys(rows, [0.9] * len(seeds)))
    for row, points in (("a", 0.0), ("b", better_by)):
        for seed in params.seeds:
            log = training(params, row, seed)
            log.history[-1].validation["accuracy"] += points * (1 + seed / 10)
            log.write(folder / "without" / row / "training" / f"seed-{seed}.json")
        measured = StudyMetrics(mean=QUALITY, seeds=[QUALITY] * len(seeds))
        measured.write(folder / "without" / row / "metrics.json")


def run_report(folder: Path) -> int:
    paths = {"params": "study.yaml", "project": "params.yaml", "without": "without"}
    paths |= {"rows": "rows", "markdown": "P.md", "results": "p.json"}
    return run_main(report.main, folder, paths)


def test_differences_and_their_errors_are_those_of_hand(tmp_path: Path) -> None:
    build(tmp_path, better_by=0.002)
    assert run_report(tmp_path) == 0
    a, b = json.loads((tmp_path / "p.json").read_text())
    assert (a["row"], b["row"]) == ("a", "b")
    assert a["with"] == pytest.approx([0.62, 0.621])
    assert b["without"] == pytest.approx([0.622, 0.6232])
    assert a["difference"] == pytest.approx(0.0, abs=1e-12)
    assert b["difference"] == pytest.approx(-0.0021)
    # Of -0.0020 and -0.0022: t(0.975; 1) = 12.7062 times the standard error 0.0001.
    assert b["uncertainty"] == pytest.approx(0.00127062, rel=1e-5)
    assert b["quality_with"]["decode_agreement"] == pytest.approx(14 / 15)
    assert b["quality_without"] == QUALITY
    text = " ".join((tmp_path / "P.md").read_text().split())
    assert (
        "| b | 62.05 (62.00, 62.10) | 62.26 (62.20, 62.32) | -0.21 ± 0.13 | -0.20, -0.22 |" in text
    )
    assert "larger than its uncertainty: 1 of 2: b (-0.21 ± 0.13)." in text
    assert "Mean over the rows: -0.10 ± 0.06 points, larger than its uncertainty." in text
    assert "| 93 → 50 |" in text


def test_a_difference_within_its_uncertainty_says_nothing(tmp_path: Path) -> None:
    build(tmp_path, better_by=0.002)
    path = tmp_path / "without" / "b" / "training" / "seed-1.json"
    log = SeedLog.read(path)
    log.history[-1].validation["accuracy"] += 0.001  # the loss of one seed is half of the other's
    log.write(path)
    assert run_report(tmp_path) == 0
    text = (tmp_path / "P.md").read_text()
    assert "larger than its uncertainty: none of 2." in text
    assert "points, not larger than its uncertainty." in text


def test_a_missing_result_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, better_by=0.0)
    (tmp_path / "without" / "b" / "metrics.json").unlink()
    assert run_report(tmp_path) == 1
    assert "without/b/metrics.json" in capfd.readouterr().err


def test_a_table_of_other_parameters_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, better_by=0.0)
    rows = {"a": {"dataset": "mnist", "epochs": 3}, "b": {"dataset": "cifar10"}}
    write_params(tmp_path, rows, seeds=(0, 1))
    assert run_report(tmp_path) == 1
    assert "it was trained with epochs" in capfd.readouterr().err


def test_one_seed_has_no_standard_error(tmp_path: Path) -> None:
    build(tmp_path, better_by=0.01, seeds=(0,))
    assert run_report(tmp_path) == 0
    text = (tmp_path / "P.md").read_text()
    assert "-1.00 ± –" in text
    assert "One seed each" in text
    assert "nan" not in text
    assert json.loads((tmp_path / "p.json").read_text())[1]["uncertainty"] is None


def test_a_row_without_prototypes_has_dashes(tmp_path: Path) -> None:
    build(tmp_path, better_by=0.0)
    plain = {"validation_accuracy": 1.0}
    measured = StudyMetrics(mean=plain, seeds=[plain, plain])
    measured.write(tmp_path / "without" / "a" / "metrics.json")
    assert run_report(tmp_path) == 0
    assert " 93 → – " in (tmp_path / "P.md").read_text()


def test_the_committed_numbers_are_those_of_the_committed_table_or_the_page_says_otherwise() -> (
    None
):
    text = (FOLDER / "price.json").read_text(encoding="utf-8")
    same = []
    for each in json.loads(text):
        folder = ROOT / "results" / "rows" / each["row"]
        seeds = [json.loads(path.read_text()) for path in sorted(folder.glob("evaluation/*.json"))]
        same.append(each["with"] == [seed["metrics"]["validation_accuracy"] for seed in seeds])
        mean = json.loads((folder / "metrics.json").read_text())["mean"]
        same.append(each["quality_with"] == {name: mean[name] for name in report.QUALITY})
    says_otherwise = "Of the table before the present one" in (FOLDER / "PRICE.md").read_text()
    assert all(same) is not says_otherwise
