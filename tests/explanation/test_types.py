"""Numbers in words."""

import pytest

from protodl.explanation.types import chance


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
