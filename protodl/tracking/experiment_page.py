"""The experiment's page: its description, a prepared view of the results, the server."""

import os
import socket
import sys

from protodl.tracking.descriptions import NOTE, shortened
from protodl.tracking.store import (
    Store,
    open_current,
    raising_tracking_errors,
    shown_uri,
    tracking_uri,
)
from protodl.tracking.trouble import TrackingError, telling_failures
from protodl.tracking.views import CURVES, RESULTS, views

# Versions of MLflow that look at it open such an experiment as one of trained models. Version 3.17
# goes by the address alone, which is why all of ours name the side.
KIND = "mlflow.experimentKind"


@raising_tracking_errors()
def describe_experiment(markdown: str) -> None:
    """Make the results table the experiment's description, below links to the prepared views."""
    with telling_failures("the experiment's description"):
        store = open_current()
        links = [f"[{view.name}]({_fragment(store, view.key)})" for view in views()]
        text = shortened(f"Prototype networks. {', '.join(links)}.\n\n{markdown}")
        store.client.set_experiment_tag(store.experiment_id, NOTE, text)
        prepare_views(store)


def prepare_views(store: Store) -> None:
    """Store the views that the links open, and which side of MLflow the experiment belongs to."""
    tags = {KIND: "custom_model_development"} | dict(view.tag for view in views())
    held = store.client.get_experiment(store.experiment_id).tags
    for name, value in tags.items():
        if held.get(name) != value:
            store.client.set_experiment_tag(store.experiment_id, name, value)


def link(server: str, key: str = RESULTS) -> str:
    """Address of a view on a server such as http://127.0.0.1:5000."""
    return server.rstrip("/") + "/" + _fragment(open_current(), key)


def _links(server: str) -> str:
    return f"{link(server)}\nlearning curves: {link(server, CURVES)}"


def _fragment(store: Store, key: str) -> str:
    """The part of a view's address that is the same on every server."""
    (query,) = [view.query for view in views() if view.key == key]
    return f"#/experiments/{store.experiment_id}/runs?{query}"


@raising_tracking_errors()
def serve_ui(port: int) -> None:
    """Print the links of the views and become the MLflow server until it is interrupted.

    A store that is itself a server needs none: then only its links are printed.

    Raises:
        TrackingError: the port is taken, or the store cannot be opened or written.
    """
    store = open_current()
    prepare_views(store)
    if tracking_uri().startswith("http"):
        print(_links(shown_uri()))
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"port {port} is taken ({error}); choose another one with --port"
            ) from error
    print(_links(f"http://127.0.0.1:{port}"))
    words = "on this machine only (for others: docs/team.md); Ctrl-C ends it"
    print(f"ready in about 20 seconds, {words}", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nothing here uses its processes
    server = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", tracking_uri()]
    os.execv(sys.executable, [*server, *where])
