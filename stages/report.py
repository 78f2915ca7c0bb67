"""Stage report: the table of all rows as JSON, as RESULTS.md and as one HTML page, and MLflow."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from protodl.core.config import Params, load_params
from protodl.core.files import write_json, write_text
from protodl.core.stage import Stage
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
    write_json(data, options.results)
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


def overview_pictures(rows: Sequence[ResultRow], folder: Path) -> list[Path]:
    """The reasons of the first row of each data set."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.dataset, row.row)
    return [folder / row / "pictures" / "reasons.png" for row in first.values()]


OPTIONS = {
    "--params": "params.yaml",
    "--rows": "folder with each row's results",
    "--models": "folder with <row>/seed-<s>.pt",
    "--results": "JSON to write",
    "--markdown": "page to write",
    "--cards": "folder for the model cards",
    "--overview": "picture to write",
    "--html": "HTML page to write",
}
main = Stage(report, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
