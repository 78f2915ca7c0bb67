"""Fixtures for all tests, and the order in which their modules run."""

import os
from pathlib import Path

import pytest

# One thread each, before torch is imported: the tests run in parallel on few processors. MLflow is
# as quiet as protodl makes it.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
for variable, value in VARIABLES.items():
    os.environ.setdefault(variable, value)

pytest_plugins = ["tests.mlflow_fixtures", "tests.pipeline.fixtures"]

# The modules that last longest, so that none is left for one process when the others have
# finished. The first computes the project that those after benchmarks/ share, meanwhile the others
# have work that needs none.
LONGEST = (
    "pipeline/test_repro.py",
    "test_tutorial.py",
    "pipeline/test_cluster.py",
    "stages/test_train.py",
    "pipeline/test_workers.py",
    "tracking/test_experiment_page.py",
    "tracking/test_live.py",
    "tracking/test_away.py",
    "benchmarks/test_benchmarks.py",
    "explanation/test_local.py",
    "pipeline/test_experiments.py",
    "pipeline/test_granularity.py",
    "studies/test_studies.py",
    "pipeline/test_parallel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; the others stay in the order of their names."""
    place = {Path(__file__).parent / name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
