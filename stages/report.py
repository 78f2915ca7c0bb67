"""Stage report: the table of all rows as JSON, as RESULTS.md and as one HTML page, and MLflow."""

import argparse
import json
import os
import sys
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.errors import ProtodlError
from protodl.report.cards import write_cards
from protodl.report.figures import reasons
from protodl.report.html import html_report
from protodl.report.results import read_rows
from protodl.report.results_page import overview_pictures, require_pictures, results_page
from protodl.report.tables import shortfall
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
    data = [row.record() for row in rows]
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


def write_text(text: str, path: Path) -> None:
    """Write a file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


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
