"""Stage report: the table of all rows as JSON, as RESULTS.md and as one HTML page, and MLflow."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from protodl.core.config import Params, load_params
from protodl.core.errors import ProtodlError
from protodl.core.training_log import ResultsError
from protodl.report.cards import model_card
from protodl.report.figures import reasons
from protodl.report.html import html_report
from protodl.report.results import ResultRow, read_row, read_rows
from protodl.report.tables import PICTURES, results_page, shortfall
from protodl.tracking.project import try_sync


def report(options: argparse.Namespace) -> None:
    """Write every file of the report, then bring MLflow up to date."""
    params = load_params(options.params)
    rows = read_rows(params, options.rows)
    require_pictures(rows, options.rows)
    pictures, cards = (
        Path(os.path.relpath(path, options.markdown.parent))
        for path in (options.rows, options.cards)
    )
    data = [row.model_dump(mode="json") for row in rows]
    write_text(json.dumps(data, indent=1) + "\n", options.results)
    write_cards(rows, params, options.rows, options.cards)
    write_text(results_page(rows, params, pictures, cards), options.markdown)
    reasons.stack_reasons(overview_pictures(rows, options.rows), options.overview)
    write_text(
        html_report(rows, params, options.rows, options.cards, options.overview), options.html
    )
    print(f"{options.markdown}: {len(rows)} rows. {shortfall(rows)}".rstrip(), flush=True)
    # The report is written before MLflow is touched, and stays as it is whatever happens there.
    try_sync(options.params, options.rows, options.models)


def require_pictures(rows: Sequence[ResultRow], folder: Path) -> None:
    """Make sure that everything the page shows is there; raises ResultsError."""
    for row in rows:
        for name in PICTURES:
            path = folder / row.row / "pictures" / f"{name}.png"
            if not path.is_file():
                raise ResultsError(f"{path}: missing; run `dvc repro prototypes@{row.row}`")


def write_cards(rows: Sequence[ResultRow], params: Params, folder: Path, cards: Path) -> None:
    """Write the model card of each row."""
    for row in rows:
        card = model_card(row, read_row(row.row, params, folder), params)
        write_text(card, cards / f"{row.row}.md")


def write_text(text: str, path: Path) -> None:
    """Write a file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def overview_pictures(rows: Sequence[ResultRow], folder: Path) -> list[Path]:
    """The reasons of the first row of each data set."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.dataset, row.row)
    return [folder / row / "pictures" / "reasons.png" for row in first.values()]


def main() -> int:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--rows", type=Path, required=True, help="folder with each row's results")
    parser.add_argument("--models", type=Path, required=True, help="folder with <row>/seed-<s>.pt")
    parser.add_argument("--results", type=Path, required=True, help="JSON to write")
    parser.add_argument("--markdown", type=Path, required=True, help="page to write")
    parser.add_argument("--cards", type=Path, required=True, help="folder for the model cards")
    parser.add_argument("--overview", type=Path, required=True, help="picture to write")
    parser.add_argument("--html", type=Path, required=True, help="HTML page to write")
    try:
        report(parser.parse_args())
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
