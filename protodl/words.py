"""Numbers in words."""


def chance(probability: float) -> str:
    """A probability in percent, which never says 100 or 0 of what is not."""
    if probability > 0.9995:
        return "over 99.9 %"
    return "under 0.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"
