"""What the pages of all studies share: measures as columns, what they mean, and the writing."""

import argparse
from collections.abc import Iterable, Mapping, Sequence

from protodl.core.files import write_json, write_text
from protodl.evaluation.measures import MEASURES
from protodl.report.tables import NONE, definition


def value(name: str, metrics: Mapping[str, float]) -> str:
    """A measure as its column shows it; a dash where it was not taken."""
    return MEASURES[name].text(metrics[name]) if name in metrics else NONE


def headings(names: Iterable[str]) -> list[str]:
    """The heads of the columns of these measures."""
    return [MEASURES[name].heading for name in names]


def meanings(names: Iterable[str]) -> str:
    """What these measures mean, as a list in Markdown."""
    found = [MEASURES[name] for name in names]
    return "\n".join(f"- {definition(each.heading, each.meaning)}" for each in found)


def write(text: str, records: Sequence[Mapping[str, object]], options: argparse.Namespace) -> None:
    """Write the page to `options.markdown` and its numbers to `options.results`."""
    write_text(text, options.markdown)
    write_json(records, options.results)
