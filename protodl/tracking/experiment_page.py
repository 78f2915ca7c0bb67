"""The experiment's page: its description, a prepared view of the results, the server."""

import json
import os
import socket
import sys

from protodl.evaluation.measures import measures
from protodl.tracking.store import (
    Store,
    TrackingError,
    open_current,
    raising_tracking_errors,
    tracking_uri,
    warning_on_failure,
)

VIEW_KEY = "results"
COLUMN_WIDTH = 135  # pixels: fits the longest name
MAX_LENGTH = 5000  # of a description, on any server
NOTE = "mlflow.note.content"  # tag that MLflow shows as the description


def describe_experiment(markdown: str) -> None:
    """Make the results table the experiment's description, and prepare the results view."""
    with warning_on_failure("the experiment's description"):
        store = open_current()
        text = shortened(markdown)
        store.client.set_experiment_tag(store.experiment_id, NOTE, text)
        _prepare_view(store)


def shortened(markdown: str) -> str:
    """A text that fits into a description, cut at the end of a line where it is too long."""
    if len(markdown) <= MAX_LENGTH:
        return markdown
    kept = markdown[: MAX_LENGTH - 10].rpartition("\n")[0]
    return f"{kept}\n\n(…)"


def view_columns() -> list[str]:
    """Metrics of the runs of rows and seeds that the prepared view shows, in this order."""
    first = [
        each.name if summary == "mean" else f"{each.name}_{summary}"
        for each in measures("accuracy")
        for summary in each.over_seeds
    ]
    others = [measure.name for measure in measures("explanations", "training")]
    return [*first, "published_accuracy", "difference", "num_seeds", *others]


def _prepare_view(store: Store) -> None:
    """Store the view that the link opens; its format is MLflow's own and undocumented."""
    metrics = [f"metrics.`{name}`" for name in view_columns()]
    columns = [*metrics, "attributes.`Dataset`", "attributes.`Models`"]
    view = {
        "orderByKey": "attributes.start_time",  # in any other order seeds leave their rows
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, COLUMN_WIDTH),
        "viewMaximized": True,
    }
    store.client.set_experiment_tag(
        store.experiment_id, f"mlflow.sharedViewState.{VIEW_KEY}", json.dumps(view)
    )


def link(server: str) -> str:
    """Address of the results view on a server such as http://127.0.0.1:5000."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"
    return f"{server.rstrip('/')}/#/experiments/{open_current().experiment_id}/runs?{query}"


@raising_tracking_errors()
def serve_ui(port: int) -> None:
    """Print the link of the results view and become the MLflow server until it is interrupted.

    A store that is itself a server needs none: then only its link is printed.

    Raises:
        TrackingError: the port is taken, or the store cannot be opened or written.
    """
    store = open_current()
    _prepare_view(store)
    if tracking_uri().startswith("http"):
        print(link(tracking_uri()))
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"port {port} is taken ({error}); choose another one with --port"
            ) from error
    address = link(f"http://127.0.0.1:{port}")
    print(f"{address}\nready in about 20 seconds; Ctrl-C ends it", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nothing here uses its processes
    server = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", tracking_uri()]
    os.execv(sys.executable, [*server, *where])
