"""Model cards: numbers and limits as the files have them."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from protodl.core.config import Params
from protodl.core.training_log import Metrics
from protodl.evaluation.measures import MEASURES, measures
from protodl.report.cards import model_card
from protodl.report.results import RowFiles, read_row, result_row
from protodl.report.tables import SAMPLE_HEADING
from tests.factories import write_params, write_rows

CLOTHES = "fashion-mnist-small-deconv"  # has a published number


def card(
    folder: Path,
    accuracies: list[float],
    experiment: dict[str, Any] | None = None,
    confusion: list[list[int]] | None = None,
    source: str = "full",
    metrics: Mapping[str, float] | None = None,
    classes: tuple[str, ...] = (),
) -> str:
    """The card of a row with these test accuracies; `metrics` are added to what was measured."""
    measured = dict(metrics or {})
    row = {"dataset": "fashion-mnist", **(experiment or {})}
    params: Params = write_params(folder, {CLOTHES: row}, range(len(accuracies)), source)
    write_rows(folder / "rows", params, {CLOTHES: accuracies})
    files = read_row(CLOTHES, params, folder / "rows")
    mean = files.metrics.mean | measured
    summary = Metrics(
        num_seeds=len(accuracies),
        mean=mean,
        std=dict.fromkeys(measured, 0.01) | files.metrics.std,
        unprojected={},
    )
    evaluations = [
        seed.model_copy(
            update={
                "metrics": seed.metrics | measured,
                "confusion": confusion or seed.confusion,
            }
        )
        for seed in files.evaluations
    ]
    named = {"class_names": classes, "image_shape": (1, 28, 28)}
    logs = [log.model_copy(update=named) for log in files.logs] if classes else files.logs
    files = RowFiles(logs, evaluations, summary)
    return model_card(result_row(CLOTHES, params, files), files, params)


def section(text: str, name: str) -> str:
    return text.partition(f"## {name}\n\n")[2].partition("\n\n## ")[0]


def test_a_card_tells_what_was_made_of_what_and_how(tmp_path: Path) -> None:
    text = card(tmp_path, [0.9, 0.91], {"augment": {"flip": True, "shift": 1}})
    assert text.startswith(f"# Model card: {CLOTHES}\n\n## Intended use\n\nA prototype network")
    assert "float32 (N, 1, 28, 28)" in section(text, "Intended use")
    assert "T-shirt/top, Trouser, " in section(text, "Intended use")
    data = section(text, "Data and licence")
    assert "55,000 training images; 5,000 validation images, 8.3 % of the training split" in data
    assert "8 test images" in data  # as many as the confusion matrix counts
    assert "`0123456789abcdef0123456789abcdef`" in data
    recipe = section(text, "Recipe")
    assert "small encoder, deconv decoder, 15 prototypes" in recipe
    assert "- Augmentation: shift 1, flip." in recipe
    assert f"`experiments.{CLOTHES}`" in recipe
    results = section(text, "Results")
    assert "Seeds 0, 1: mean ± standard deviation; kept epochs: 2, 2 of 2." in results
    assert "| test accuracy | 90.50 ± 0.71 % |" in results
    assert "| coverage | 9 |" in results
    assert "84.15 to 96.85 over seeds (Student's t), 56.11 to 98.61 over images (Wilson)" in results
    assert "By class: T-shirt/top: 75.0, Trouser: 100.0." in results
    assert "Published test accuracy: 84.65 %" in results and "The paper's: 89.95 %" in results
    made = section(text, "Made with")
    assert "Abacus, 2 cores" in made and "torch 2.15.0" in made
    assert "34 s of training for one seed; ended 2023-11-14 (UTC)" in made
    assert f"`make repro ROW={CLOTHES}`" in made
    # What MLflow's descriptions take; what is cut there are facts that the run has as tags, too.
    assert text.index("## Made with") < 5000


def test_measures_that_were_not_taken_are_left_out(tmp_path: Path) -> None:
    without = section(card(tmp_path, [0.9]), "Results")
    assert "accuracy of three prototypes" not in without
    everything = section(card(tmp_path, [0.9], metrics=dict.fromkeys(MEASURES, 0.96875)), "Results")
    shown = [line.split(" | ")[0] for line in everything.splitlines() if line.startswith("| ")]
    expected = measures("accuracy", "certainty", "explanations", "card")
    assert shown[1:] == [f"| {measure.title}" for measure in expected]
    assert everything.startswith("Seed 0; kept epochs: 2 of 2.")
    assert "| independent agreement | 96.88 % |" in everything


GOOD = {
    "decode_agreement": 1.0,
    "cycle_identity": 1.0,
    "independent_agreement": 0.95,
    "case_agreement": 0.95,
    "reconstruction_agreement": 0.95,
    "independent_reconstruction_agreement": 0.95,
    "purity25": 0.95,
    "coverage": 10,
    "duplicates": 0,
    "distinct_prototypes": 15,
}


@pytest.mark.parametrize(
    ("metric", "value", "sentence"),
    [
        (
            "independent_agreement",
            0.36,
            "The independent classifier recognises 36 % of the decoded prototypes**",
        ),
        ("independent_agreement", 0.36, "nearest training case beside the picture (case agreement"),
        ("reconstruction_agreement", 0.4, "what the network itself goes by: 40 % of them"),
        (
            "independent_reconstruction_agreement",
            0.4,
            "what the independent classifier goes by: 40 %",
        ),
        ("decode_agreement", 0.9, "The network itself puts 10 % of the decoded prototypes into"),
        ("cycle_identity", 0.9, "Of the decoded prototypes 10 % lie nearer to another prototype"),
        ("purity25", 0.8, "Around a prototype 20 % of the nearest training cases"),
        ("coverage", 9, "In the worst seed 9 of 10 classes have a prototype."),
        ("distinct_prototypes", 11, "Of the 15 prototypes 11 look different."),
        (
            "duplicates",
            2.5,
            "2.5 pairs of prototypes nearly coincide in code space: that many of the 15",
        ),
    ],
)
def test_a_poor_number_is_a_limit_and_a_good_one_is_not(
    metric: str, value: float, sentence: str, tmp_path: Path
) -> None:
    assert sentence in section(
        card(tmp_path, [0.9], metrics=GOOD | {metric: value}), "Known limits"
    )
    assert sentence not in card(tmp_path, [0.9], metrics=GOOD)


def test_limits_that_every_row_has(tmp_path: Path) -> None:
    confusion = [[80, 0, 20], [1, 99, 0], [5, 5, 90]]
    limits = section(card(tmp_path, [0.9, 0.8], confusion=confusion), "Known limits")
    assert (
        "Most confused, in per cent of the true class: T-shirt/top taken for Pullover (20.0 %)"
        in limits
    )
    assert "Between the seeds test accuracy goes from 80.00 to 90.00 %." in limits
    assert "published" not in limits
    one = card(
        tmp_path, [0.8], confusion=confusion, metrics={"prototype_limit": 1.25, "case_limit": 0.5}
    )
    limits = section(one, "Known limits")
    assert "T-shirt/top taken for Pullover (20.0 %), Pullover taken for" in limits
    assert "(5.0 %)" in limits and "(1.0 %)" not in limits  # the three most frequent
    assert "The published accuracy is not reached." in limits
    assert "The paper's accuracy is not reached." in limits
    assert "One seed: how far another one would differ is not known." in limits
    assert "The two limits of seed 0: 1.250 and 0.500." in limits
    exact = section(card(tmp_path, [0.9], confusion=[[4, 0], [0, 4]]), "Known limits")
    assert "of the true class: nothing." in exact


def test_a_baseline_without_prototypes_explains_nothing(tmp_path: Path) -> None:
    text = card(
        tmp_path, [0.9], {"model": {"distance": "none"}}, metrics={"independent_agreement": 0.1}
    )
    assert "there is nothing to explain a prediction with" in section(text, "Known limits")
    assert "classifier recognises" not in text and "raises a flag" not in text
    assert "explain" not in section(text, "Use it")


def test_on_the_sample_nothing_is_compared(tmp_path: Path) -> None:
    text = card(tmp_path, [0.5], source="sample")
    assert SAMPLE_HEADING in text
    assert "ublished accuracy" not in text and "84.65" not in text
    assert "`make demo`" in text


@pytest.mark.faults
def test_names_of_classes_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """By MLflow and the Hub, too, whose pages are made of this text."""
    classes = ("<script>alert(1)</script>", "a|b `c` [d](javascript:e) *f*\n# g")
    text = card(tmp_path, [0.9], confusion=[[3, 1], [0, 4]], classes=classes)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    shown = html.unescape(page)
    assert "probabilities of <script>alert(1)</script>, a|b `c` [d](javascript:e) *f* # g." in shown
    assert "<script>alert(1)</script> taken for a|b" in shown
    assert "<script" not in page and "<em>" not in page and "href" not in page
