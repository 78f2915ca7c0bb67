"""The experiment's page and the server that shows it."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.request
import zlib

import pytest

from protodl.tracking.experiment_page import describe_experiment, link, serve_ui
from protodl.tracking.store import TrackingError
from tests.tracking.records import client, first_line, seed_log, train

pytestmark = pytest.mark.usefixtures("project")


def test_the_experiment_s_page_is_prepared() -> None:
    describe_experiment("| row |\n|---|\n" + "| a |\n" * 2000)
    experiment = client().get_experiment_by_name("protodl")
    assert experiment is not None
    description = experiment.tags["mlflow.note.content"]
    table = description.partition("\n\n")[2]
    assert table.startswith("| row |\n|---|\n| a |\n")
    assert table.endswith("| a |\n\n(…)")
    where = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    assert f"]({where}&viewStateShareKey=results)" in description
    assert f"]({where}&viewStateShareKey=curves&compareRunsMode=CHART)" in description
    assert link("http://127.0.0.1:5000/") == (
        f"http://127.0.0.1:5000/{where}&viewStateShareKey=results"
    )
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    for key in ("results", "curves"):
        tag = experiment.tags[f"mlflow.sharedViewState.{key}"]
        assert len(tag) < 5000  # what older stores take
        view = json.loads(tag)  # older versions of MLflow read its keys, newer ones its `state`
        packed = view["state"].removeprefix("deflate;")
        assert json.loads(zlib.decompress(base64.b64decode(packed))).items() <= view.items()


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} is taken"):
            serve_ui(port)


def test_the_server_shows_the_store_and_records_for_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = train(seed_log())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from protodl.tracking.experiment_page import serve_ui; serve_ui({port})"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first_line(server) == link(f"http://127.0.0.1:{port}")
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert client().get_run(log.run_id).info.run_name == "a seed 0"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from-afar")
        remote = train(seed_log("b"))
        assert client().get_run(remote.run_id).data.metrics["train/accuracy"] == 0.5
        serve_ui(port)  # the store is a server already: prints its link and returns
        assert f"http://127.0.0.1:{port}/#/experiments/" in capfd.readouterr().out
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)
