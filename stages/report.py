"""Stage report: the table of all rows as JSON, as RESULTS.md and as one HTML page, and MLflow."""

import argparse
import os
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.files import write_json, write_text
from protodl.core.process import run_script
from protodl.core.stage import Stage
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
    write_json([row.record() for row in rows], options.results)
    write_cards(rows, params, options.rows, options.cards)
    write_text(results_page(rows, params, pictures, cards), options.markdown)
    reasons.stack_reasons(overview_pictures(rows, options.rows), options.overview)
    write_text(
        html_report(rows, params, options.rows, options.cards, options.overview), options.html
    )
    print(f"{options.markdown}: {len(rows)} rows. {shortfall(rows)}".rstrip(), flush=True)
    # The report is written before MLflow is touched, and stays as it is whatever happens there.
    try_sync(options.params, options.rows, options.models)


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
    run_script(main)
