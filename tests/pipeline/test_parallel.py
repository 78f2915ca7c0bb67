"""Rows that are trained in parallel on the sample."""

import shutil

import pytest

from protodl.core.training_log import SeedLog
from protodl.pipeline.run import ROW_STAGES, run_pipeline
from tests.pipeline.project import ROWS, Project


def test_rows_in_parallel_give_the_same_bits(
    computed: Project, project_copy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were computed one after another, with the threads that each of two workers has."""
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in (".protodl", ".dvc/cache/runs", "data/mnist", *(f"models/{row}" for row in ROWS)):
        shutil.rmtree(project_copy.folder / name)
    (project_copy.folder / "data" / "folders.json").unlink()  # as in a fresh clone

    run_pipeline(project_copy.folder, ROWS, workers=2, row_stages=ROW_STAGES[:1])

    for row in ROWS:
        assert project_copy.model(row) == computed.model(row)
        path = f"results/rows/{row}/training/seed-0.json"
        before, after = (SeedLog.read(p.folder / path) for p in (computed, project_copy))
        assert [r.validation for r in before.history] == [r.validation for r in after.history]
        assert before.end_ms < after.start_ms  # it was trained again
