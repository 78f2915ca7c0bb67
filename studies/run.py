"""A whole study: what it needs of the project's pipeline, then its own, rows in parallel.

`make ablation JOBS=2`, or `python -m studies.run ablation --jobs 2` in the project's folder; with
`--on auto` or `--on host:port` its rows are trained on a Ray cluster, as by `protodl run`.
"""

import argparse
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.machine import project_root
from protodl.core.process import run_script
from protodl.core.stage import run_reporting
from protodl.pipeline.run import DATA_STAGES, reproduce, run_pipeline

FOLDER = Path(__file__).parent
# Whether it compares with the table's rows.
STUDIES = {"ablation": False, "long": True, "modern": True, "price": True}
ROW_STAGES = ("train", "measure")


def run_study(folder: Path, workers: int, needs_table: bool, cluster: str | None = None) -> None:
    """Bring every row of a study and its page up to date, where needed the table before it.

    Args:
        folder: the study's.
        workers: rows in parallel.
        needs_table: whether it compares with the table's rows.
        cluster: address of a Ray cluster on which seeds are trained, or `auto`.

    Raises:
        ConfigError: the study's params.yaml is wrong, or the project's; nothing was started.
        PipelineError, ClusterError, protodl.core.process.Interrupted: as run_pipeline.
    """
    root = project_root()
    params = load_params(folder / "params.yaml")
    if needs_table:
        run_pipeline(root, [], workers, cluster=cluster)
    else:
        datasets = dict.fromkeys(row.dataset for row in params.experiments.values())
        reproduce(root, [f"{stage}@{name}" for stage in DATA_STAGES for name in datasets])
    run_pipeline(folder, [], workers, ROW_STAGES, cluster=cluster)


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m studies.run", description=__doc__)
    parser.add_argument("study", choices=list(STUDIES), help="which one")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="rows in parallel")
    words = "train on a Ray cluster: host:port of its head, or auto"
    parser.add_argument("--on", metavar="ADDRESS", help=words)
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: 1 or more")
    folder = FOLDER / options.study
    return run_reporting(
        lambda: run_study(folder, options.jobs, STUDIES[options.study], options.on)
    )


if __name__ == "__main__":
    run_script(main)
