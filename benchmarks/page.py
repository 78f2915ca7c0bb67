"""SPEED.md: the template SPEED.md.jinja, filled with the figures of results.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHOWN = ("processor", "threads", "precision", "torch", "git_revision")
TITLES = {
    "batch_size": "batch size",
    "num_prototypes": "number of prototypes",
    "channels": "channels of the image",
    "encoder": "widths of the encoder",
}


def speed_page(results: Mapping[str, Any]) -> str:
    """The page, with the sections that have been measured."""
    environment = Environment(  # Markdown of our own figures: nothing to escape
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=False,
    )
    text = environment.get_template("SPEED.md.jinja").render(
        results,
        machines=sections_by_machine(results["measured"]),
        shown_profiles=one_of_each_network(results.get("profile", {})),
        titles=TITLES,
    )
    return text.rstrip("\n") + "\n"


def sections_by_machine(measured: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Names of the sections that were measured on the same machine and revision."""
    machines: dict[str, list[str]] = {}
    for section, facts in measured.items():
        machine = ", ".join(f"{name.replace('_', ' ')} {facts[name]}" for name in SHOWN)
        machines.setdefault(machine, []).append(section)
    return machines


def one_of_each_network(rows: Iterable[str]) -> list[str]:
    """The first row of each network; the names end with architecture and decoder."""
    first: dict[tuple[str, ...], str] = {}
    for row in rows:
        first.setdefault(tuple(row.split("-")[-2:]), row)
    return list(first.values())
