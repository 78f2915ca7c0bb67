"""Numbers and reasons in words."""

import dataclasses

import pytest

from protodl.explanation.types import OutOfDistribution, chance
from tests.report.figures.drawings import explanation


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (1.0, "over 99.9 %"),
        (0.9996, "over 99.9 %"),
        (0.9994, "99.9 %"),
        (0.5, "50.0 %"),
        (0.0006, "0.1 %"),
        (0.0004, "under 0.1 %"),
        (0.0, "under 0.1 %"),
    ],
)
def test_a_chance_is_never_said_to_be_certain(probability: float, words: str) -> None:
    assert chance(probability) == words


@pytest.mark.parametrize(
    ("values", "far", "expected"),
    [
        ([6.0, 0.59], (), "because it looks like prototype 0 (an airplane, +6.00)"),
        (
            [6.0, 0.61, -0.7],
            (1,),
            "because it looks like prototype 0 (an airplane, +6.00) and is unlike prototype 1 (an "
            "automobile, +0.61), although it also looks like prototype 2 (a bird, -0.70)",
        ),
        ([0.2, -2.5], (), "although no prototype speaks for it more than usual"),
        ([0.0049, -0.004], (), "although no prototype speaks for it more than usual"),
        ([0.02, -0.001], (), "because it looks like prototype 0 (an airplane, +0.02)"),
    ],
)
def test_only_contributions_that_count_are_reasons(
    values: list[float], far: tuple[int, ...], expected: str
) -> None:
    found = explanation(len(values))
    reasons = [
        dataclasses.replace(reason, contribution=value, distance=30.0 if p in far else 1.0)
        for p, (reason, value) in enumerate(zip(found.prototypes, values, strict=True))
    ]
    assert dataclasses.replace(found, prototypes=tuple(reasons)).because == expected


@pytest.mark.parametrize(
    ("flag", "unusual", "words"),
    [
        (False, 0.89, ""),
        (False, 0.93, "CAUTION: less usual than 93.0 % of validation images"),
        (True, 0.5, "WARNING: unlike what this network was trained on"),
        (True, 1.0, "less usual than over 99.9 % of validation images"),
    ],
)
def test_the_more_unusual_an_image_the_louder_the_warning(
    flag: bool, unusual: float, words: str
) -> None:
    found = OutOfDistribution(flag, unusual, 1.0, 2.0, None, 2.0).in_words
    assert words in found
    assert bool(words) == bool(found)
