"""The experiment's page and the server that shows it."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from protodl.tracking.experiment_page import describe_experiment, link, serve_ui
from protodl.tracking.sync import RowRuns
from protodl.tracking.trouble import TrackingError
from tests.chromium import BINARY, chromium, shown_text
from tests.tracking.records import client, evaluation, first_line, seed_log, train

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


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    """A server of the project's store; gives its address, and the lines with links it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from protodl.tracking.experiment_page import serve_ui; serve_ui({port})"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        lines = [first_line(server), first_line(server)]
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        assert _listening(server.pid) == {"127.0.0.1"}
        yield f"http://127.0.0.1:{port}", lines
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_the_server_shows_the_store_and_records_for_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = train(seed_log())
    with serving() as (address, lines):
        assert lines == [link(address), f"learning curves: {link(address, 'curves')}"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert client().get_run(log.run_id).info.run_name == "a seed 0"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from-afar")
        remote = train(seed_log("b"))
        assert client().get_run(remote.run_id).data.metrics["train/accuracy"] == 0.5
        serve_ui(int(address.rpartition(":")[2]))  # it is a server: prints its links and returns
        assert f"{address}/#/experiments/" in capfd.readouterr().out


@pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")
def test_the_links_show_rounded_rows_in_order_and_few_charts(tmp_path: Path) -> None:
    numbers = {"test_accuracy": 0.9923333333333333, "num_seeds": 1}
    for position, row in ((2, "later"), (1, "former")):
        runs = RowRuns.of([seed_log(row)])
        runs.log_evaluations([evaluation(runs.logs[0], numbers)])
        runs.log_result(numbers, {})
        runs.place(position)
    describe_experiment("a table")
    with serving() as (address, _), chromium(tmp_path / "profile") as page:
        shown = r"(?s)(?=.*former)(?=.*later)(?=.*99\.23 %).*\b2\s+matching runs"
        table = shown_text(page, link(address), shown)
        assert table.index("former") < table.index("later")
        assert table.count("99.23 %") == 2
        assert "0.9923" not in table
        assert "Learning curves: seeds" in table  # in the experiment's description
        charts = shown_text(
            page, link(address, "curves"), r"Learning curves\s+\(3\)[\s\S]*validation/accuracy"
        )
        assert charts.count("validation/accuracy") >= 1


def _listening(process: int) -> set[str]:
    """The addresses on which a process and its children can be reached."""
    family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    connections = [each for member in family for each in member.net_connections()]
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def _wait_for(address: str, server: subprocess.Popen[str]) -> None:
    for _ in range(1800):  # processors may be busy
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)
