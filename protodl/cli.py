"""The command `protodl`: what to do, in words; the doing is elsewhere."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import shtab

from protodl import __version__
from protodl.core.check import check_params
from protodl.core.config import Params, load_params
from protodl.core.errors import ProtodlError
from protodl.core.machine import project_root, use_threads
from protodl.core.process import run_script
from protodl.core.stage import run_reporting

EXPLAIN = (
    "Writes a sheet (PNG) and JSON for each image, a summary (CSV) of several, and says in words"
    " what is there. Photos and drawings are prepared as the makers of the data set prepared"
    " theirs: cut out, scaled, centred, light on dark."
)
VERIFY = (
    "Hashes what is here of a row's data, models and results as DVC does, and computes its numbers"
    " from the models again. The exit status is 0 where all is as it was recorded, 1 where"
    " something differs, 2 where that cannot be told."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    Mistakes of the user and failures of the pipeline are told in one message on stderr, status 1.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DVC_NO_ANALYTICS", "true")
    options = _parser().parse_args(arguments)
    if options.quiet:
        _silence()
    return run_reporting(lambda: options.do(options))


def script() -> None:
    """The command as a process of its own, which ends by the signal that stops it."""
    run_script(main)


def _silence() -> None:
    """Drop the standard output of this process and of those that it starts."""
    sys.stdout.flush()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="protodl",
        description="Prototype networks: from params.yaml to the table of results.",
    )
    words = "print protodl's version and end"
    parser.add_argument("--version", action="version", version=f"protodl {__version__}", help=words)
    words = "print warnings and errors only"
    parser.add_argument("-q", "--quiet", action="store_true", help=words)
    shtab.add_argument_to(parser, "--print-completion", help="print what that shell completes by")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, do: Callable[[argparse.Namespace], None], **words: Any) -> Any:
        command = commands.add_parser(name, **words)
        command.set_defaults(do=do)
        return command.add_argument

    add("check", _check, help="check params.yaml")
    option = add("run", _run, help="compute what has changed: `dvc repro` with reports")
    option("rows", nargs="*", metavar="ROW", help="rows of params.yaml; default: all")
    option("-j", "--jobs", type=_at_least_one, default=1, metavar="N", help="rows in parallel")
    option("--on", metavar="ADDRESS", help="train on a Ray cluster: host:port of its head, or auto")
    words = "find values of a row's parameters that validate better: a file of studies/search/"
    _add_search(add("search", _search, help=words))
    words = "measure a row again, and compare it with dvc.lock and results/"
    _add_verify(add("verify", _verify, help=words, description=VERIFY))
    add("demo", _demo, help="the whole pipeline on the embedded sample, in .demo/")
    _add_table(add("table", _table, help="print the table of results"))
    words = "say why a trained row decides on images as it does"
    _add_explain(add("explain", _explain, help=words, description=EXPLAIN))
    option = add("try", _try, help="serve a page to try rows on, on this machine")
    option("--port", type=int, default=8017)
    words = "write a row as a folder for others, as the Hugging Face Hub has them"
    _add_export(add("export", _export, help=words))
    option = add("ui", _ui, help="serve MLflow's web interface and print its link")
    option("--port", type=int, default=5000)
    add("sync", _sync, help="create the runs that MLflow lacks, from the files")
    words = "remove checkpoints and temporary files that nothing needs, and say what that frees"
    _add_clean(add("clean", _clean, help=words))
    return parser


def _add_search(option: Any) -> None:
    option("name", metavar="ROW", help="a file of studies/search/, without .yaml")
    words = "in all, those that are over included; default: what the file says"
    option("--trials", type=_at_least_one, metavar="N", help=words)
    option("-j", "--jobs", type=_at_least_one, default=1, metavar="N", help="trainings at once")
    option("--on", metavar="ADDRESS", help="train on a Ray cluster: host:port of its head, or auto")


def _add_table(option: Any) -> None:
    words = "read the numbers from MLflow, not from files"
    option("--from-mlflow", action="store_true", help=words)
    words = "put it between the marks of this file"
    option("--write", type=Path, metavar="README.md", help=words)


def _add_export(option: Any) -> None:
    option("row", metavar="ROW", help="a row that is trained here or shipped")
    option("folder", metavar="DIR", type=Path, help="folder to write to")
    option("--seed", type=int, help="of the training; default: the first one")
    option("--onnx", action="store_true", help="classifier and explainer as ONNX, too")


def _add_clean(option: Any) -> None:
    option("-n", "--dry-run", action="store_true", help="only say it")
    words = "also checkpoints that spare a training: unfinished ones, and those of the table"
    option("--all", action="store_true", help=words)


def _add_explain(option: Any) -> None:
    words = "a row that is trained here or shipped, or a folder that was exported"
    option("row", metavar="ROW", help=words)
    words = "image files, or folders of them"
    images = option("images", nargs="*", type=Path, metavar="IMAGE", help=words)
    images.complete = shtab.FILE
    words = "images of the test split"
    option("--test", nargs="+", type=int, default=[], metavar="INDEX", help=words)
    option("--seed", type=int, help="of the training; default: the first one")
    words = "folder to write to; default: explanations/ROW"
    option("--output", type=Path, metavar="DIR", help=words)
    option("--json", action="store_true", help="print the JSON instead of the words")
    words = "only resize pictures"
    option("--as-is", dest="prepare", action="store_const", const="as-is", help=words)
    words = "only resize pictures, and exchange dark and light"
    option("--invert", dest="prepare", action="store_const", const="invert", help=words)


def _add_verify(option: Any) -> None:
    option("row", metavar="ROW", help="row of params.yaml")
    option("--seed", type=int, help="of the training; default: all")
    option("--retrain", action="store_true", help="train it again first, in a temporary folder")
    option("--json", action="store_true", help="print everything as JSON")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return int(text)


def _params() -> Params:
    return load_params(_relative("params.yaml"))


def _relative(path: Path | str) -> Path:
    """A path of the project as seen from here: short in messages."""
    return Path(os.path.relpath(project_root() / path))


def _project() -> Path | None:
    """The project's folder as seen from here; None outside of one."""
    try:
        return _relative(".")
    except FileNotFoundError:
        return None


def _check(_options: argparse.Namespace) -> None:
    params = check_params(_relative("params.yaml"))
    print(f"params.yaml is valid: {len(params.experiments)} rows, {len(params.seeds)} seeds each")


def _run(options: argparse.Namespace) -> None:
    from protodl.pipeline.run import run_pipeline

    expected = "expected time: an ETA follows when trainings run" if options.on else ""
    run_pipeline(project_root(), options.rows, options.jobs, expected=expected, cluster=options.on)
    if not options.rows:
        _fill_mlflow()  # the report stage does so too, but is not run where nothing has changed


def _fill_mlflow() -> None:
    """Create the runs that MLflow lacks, as it does after a clone; trouble is a warning."""
    from protodl.pipeline.run import MODELS, ROWS
    from protodl.tracking.project import try_sync

    try_sync(_relative("params.yaml"), _relative(ROWS), _relative(MODELS))


def _search(options: argparse.Namespace) -> None:
    from protodl.pipeline.search import run_search
    from protodl.tracking.search import tracked_search

    with tracked_search() as changed:
        page = run_search(
            project_root(), options.name, options.trials, options.jobs, options.on, changed
        )
    print(f"\n{page}")


def _verify(options: argparse.Namespace) -> None:
    from protodl.pipeline.verify import verify

    try:
        found = verify(_relative("."), options.row, options.seed, options.retrain)
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print(f"{found.table()}\n\n{found.conclusion()}")
    if not found.equal:
        raise SystemExit(1)


def _demo(_options: argparse.Namespace) -> None:
    from protodl.pipeline.demo import EXPERIMENT, FOLDER, run_demo

    table = run_demo(project_root())
    print(f"""
{table}

Trained for seconds on a few hundred images; the last column is the published table's first seed.

Next:  open {FOLDER}/report/index.html    what the rows learned, and why they decide as they do
       protodl try                    draw a digit; by the weights that come with the clone
       MLFLOW_EXPERIMENT_NAME={EXPERIMENT} make ui    all runs in MLflow""")


def _table(options: argparse.Namespace) -> None:
    from protodl.pipeline.run import ROWS
    from protodl.report.results import read_rows
    from protodl.report.tables import results_table, update_readme

    if options.from_mlflow:
        from protodl.tracking.project import tracked_rows

        rows = tracked_rows(_params())
    else:
        rows = read_rows(_params(), _relative(ROWS))
    print(results_table(rows))
    if options.write:
        update_readme(options.write, rows)


def _explain(options: argparse.Namespace) -> None:
    from protodl.report.sheets import Request, run_explain

    request = Request(
        options.row, options.images, options.test, options.seed,
        options.prepare or "auto", options.output, options.json,
    )  # fmt: skip
    use_threads()
    run_explain(_project(), request)


def _try(options: argparse.Namespace) -> None:
    from protodl.explanation.loading import known_rows, load
    from protodl.page.server import serve

    use_threads()
    serve(known_rows(), load, options.port)


def _export(options: argparse.Namespace) -> None:
    from protodl.pipeline.export import export_row

    for path in export_row(options.row, options.seed, options.folder, options.onnx):
        print(path)


def _ui(options: argparse.Namespace) -> None:
    from protodl.pipeline.demo import EXPERIMENT
    from protodl.tracking.experiment_page import serve_ui
    from protodl.tracking.store import experiment_name

    if experiment_name() != EXPERIMENT:  # the demo's runs are not those of these files
        _fill_mlflow()
    serve_ui(options.port)


def _sync(_options: argparse.Namespace) -> None:
    from protodl.pipeline.run import MODELS, ROWS
    from protodl.tracking.project import sync_project

    show = partial(print, flush=True)
    synced = sync_project(_params(), _relative(ROWS), _relative(MODELS), show)
    for reason in synced.left_out:
        print(f"left out: {reason}")
    print(f"{len(synced.created)} runs created in MLflow")


def _clean(options: argparse.Namespace) -> None:
    from protodl.pipeline.clean import clean

    for line in clean(project_root(), options.all, options.dry_run):
        print(line)


if __name__ == "__main__":
    script()
