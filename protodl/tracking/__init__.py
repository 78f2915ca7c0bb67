"""MLflow shows what DVC computed: a run per row, a run per seed below it, models, a results view.

The only package that imports mlflow, and only when something is tracked. It observes: a failure to
record is a warning, never the end of a training, and `sync` adds later what is missing.
"""

from protodl.tracking.experiment_page import describe_experiment, link, serve_ui
from protodl.tracking.live import start_seed
from protodl.tracking.progress import watch
from protodl.tracking.served import ServedModel
from protodl.tracking.store import (
    TrackingError,
    dvc_facts,
    experiment_name,
    tracking_uri,
)
from protodl.tracking.sync import (
    RowResult,
    RowRuns,
    log_evaluations,
    read_results,
    set_champions,
)

__all__ = [
    "RowResult",
    "RowRuns",
    "ServedModel",
    "TrackingError",
    "describe_experiment",
    "dvc_facts",
    "experiment_name",
    "link",
    "log_evaluations",
    "read_results",
    "serve_ui",
    "set_champions",
    "start_seed",
    "tracking_uri",
    "watch",
]
