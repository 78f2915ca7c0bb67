"""A store that is away, slow or full: what it costs a training, and that `sync` makes it good."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import event
from sqlalchemy.pool import Pool

from protodl.core.training_log import UNTRACKED, SeedLog
from protodl.tracking import served as served_models
from protodl.tracking.kept_pictures import keep_picture
from protodl.tracking.live import start_seed
from protodl.tracking.store import open_current
from protodl.tracking.sync import RowRuns, log_evaluations
from protodl.tracking.trouble import TrackingError, without_secrets
from tests.mlflow_fixtures import empty_project
from tests.tracking.records import (
    all_runs,
    client,
    contents,
    evaluation,
    record,
    seed_log,
    served,
)
from tests.tracking.relay import relay

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("project")]

PICTURE = np.asarray(Image.new("RGB", (9, 9), "red"))
EPOCHS = 4
LOG = seed_log(
    history=[record(epoch) for epoch in range(1, EPOCHS + 1)], num_epochs=EPOCHS, selected_epoch=3
)


def train() -> SeedLog:
    """Train with a picture at each epoch, and with a model; gives the log as it is written."""
    with start_seed(LOG) as tracker:
        for epoch in LOG.history:
            start = time.monotonic()
            tracker.log_epoch(epoch)
            tracker.log_picture("prototypes", PICTURE, epoch.epoch)
            assert time.monotonic() - start < 0.5  # what is waited for is a small file
        tracker.log_model(served(), LOG.selected_epoch, LOG.selected_accuracy)
        return LOG.model_copy(update=tracker.ids)


def assert_synced(log: SeedLog, expected: list[dict[str, Any]]) -> None:
    """Bring the store up to date: it holds what a training leaves that nothing disturbed."""
    for _ in range(2):  # a second one changes nothing
        runs = RowRuns.of([log])
        runs.add_models(lambda _, explains: None if explains else served())
    assert len(all_runs()) == 2
    for run_id, run in zip((*runs.seeds, runs.row), expected, strict=True):
        for part, held in contents(run_id).items():
            assert held == run[part]


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> list[dict[str, Any]]:
    """What a training leaves that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        empty_project(tmp_path_factory.mktemp("undisturbed"), migrated_database, patch)
        log = train()
        return [contents(log.run_id), contents(log.parent_run_id)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that was printed; it holds no secret."""
    output, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert output == ""
    assert SECRET.decode() not in line
    return str(line)


SECRET = b"hunter2"  # a password, in the addresses of all servers
REFUSED = "http://anna:hunter2@127.0.0.1:9/?token=hunter2"  # nobody listens there
AWAY = {
    "refused": "connection refused",
    "silent": "no answer in time",
    "hang up": "the server hung up",
    "error 500": "the server answers with error 500",
    "error 401": "MLFLOW_TRACKING_USERNAME",
}


@pytest.mark.parametrize("mode", AWAY)
def test_a_server_that_is_away_costs_a_line(
    mode: str,
    undisturbed: list[dict[str, Any]],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with relay(mode) if mode != "refused" else nullcontext() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address if server else REFUSED)
        log = train()
        assert log.run_id == UNTRACKED
        assert len(server.requests if server else []) <= 1  # no call after the one that failed
        assert AWAY[mode] in one_line(capsys)
        log_evaluations([log], [evaluation(log, {"test_accuracy": 0.5})])  # the next stage
        assert AWAY[mode] in one_line(capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert_synced(log, undisturbed)
    assert not list(project.rglob(".protodl/**/*.png"))
    assert not [
        path for path in project.rglob("*") if path.is_file() and SECRET in path.read_bytes()
    ]


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.close()


@contextmanager
def read_only(database: Path) -> Iterator[None]:
    """A database that a newer SQLite wrote: this one may only read it."""
    with database.open("r+b") as file:
        file.seek(18)
        version = file.read(1)
        file.seek(18)
        file.write(b"\x03")
        file.flush()
        yield
        file.seek(18)
        file.write(version)


@contextmanager
def full(database: Path) -> Iterator[None]:
    """SQLite finds its disk full: as many pages as there are, and no more."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA page_size=512")  # none has room for a run's tags
    connection.execute("VACUUM")
    connection.close()

    def limit(connection: sqlite3.Connection, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    pages = 1  # as many as there are
    event.listen(Pool, "checkout", limit)
    yield
    pages = 1_000_000  # connections are used again


DATABASES: dict[Callable[[Path], AbstractContextManager[None]], str] = {
    locked: "another process keeps the database locked",
    read_only: "it is read-only",
    full: "the disk is full",
}


@pytest.mark.parametrize("fault", DATABASES, ids=lambda fault: fault.__name__)
def test_a_database_that_takes_nothing_costs_a_line(
    fault: Callable[[Path], AbstractContextManager[None]],
    undisturbed: list[dict[str, Any]],
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fault(project / "mlflow.db"):
        log = train()
        assert DATABASES[fault] in one_line(capsys)
    assert_synced(log, undisturbed)


def killed_before_the_end(_: list[dict[str, Any]]) -> SeedLog:
    """A kill between the log and the end of the run: nobody leaves the tracker's `with`."""
    tracker = start_seed(LOG)
    tracker.log_epoch(LOG.history[0])
    tracker.log_picture("prototypes", PICTURE, 1)
    return LOG.model_copy(update=tracker.ids)


def killed_between_the_ends(_: list[dict[str, Any]]) -> SeedLog:
    """A kill between the end of the seed's run and that of the row's."""
    log = train()
    client().update_run(log.parent_run_id, status="RUNNING")
    return log


def answer_lost(undisturbed: list[dict[str, Any]]) -> SeedLog:
    """The store created the runs after nobody waited for it any more."""
    store, (seed, row) = open_current(), undisturbed
    parent = client().create_run(store.experiment_id, tags=row["tags"], run_name="a")
    tags = {**seed["tags"], "mlflow.parentRunId": parent.info.run_id}
    client().create_run(store.experiment_id, tags=tags, run_name="a seed 0")
    return LOG.model_copy(update={"run_id": UNTRACKED})


def sync_killed(_: list[dict[str, Any]]) -> SeedLog:
    """A kill in the midst of `sync`, after an upload and before the model is registered."""
    runs = RowRuns.of([LOG])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_models, "_register", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            runs.add_models(lambda _, explains: None if explains else served())
    client().update_run(runs.seeds[0], status="RUNNING")
    client().update_run(runs.row, status="RUNNING")
    return LOG


@pytest.mark.parametrize(
    "cut", [killed_before_the_end, killed_between_the_ends, answer_lost, sync_killed]
)
def test_a_run_that_was_cut_off_is_completed(
    cut: Callable[[list[dict[str, Any]]], SeedLog], undisturbed: list[dict[str, Any]]
) -> None:
    log = cut(undisturbed)
    for epoch in LOG.history:
        keep_picture(LOG, "prototypes", PICTURE, epoch.epoch)
    assert_synced(log, undisturbed)


def test_a_training_of_others_that_goes_on_is_not_taken_for_a_log_s_run() -> None:
    going_on = start_seed(LOG).run_id
    assert RowRuns.of([LOG]).seeds != [going_on]  # the log names a run elsewhere


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "MLFLOW_TRACKING_USERNAME"), ("mlflow.invalid", "HTTP_PROXY")],
)
def test_a_proxy_is_asked_for_other_machines_only(
    host: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "")
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with relay("error 401") as server:
        address = server.address.replace("127.0.0.1", host)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TrackingError, match=reason):
            open_current()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://anna:p@ss@host:1/x?token=1, not", "at http://host:1/x, not"),
        ("postgresql://u:p@h/db?password=1 failed", "postgresql://h/db failed"),
        ("sqlite:////a/b.db: no", "sqlite:////a/b.db: no"),
        ("mail anna@example.org", "mail anna@example.org"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
