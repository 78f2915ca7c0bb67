"""Fixtures for all tests."""

import os

# One thread each, before torch is imported: the tests run in parallel on few processors.
for variable, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
    os.environ.setdefault(variable, value)

pytest_plugins = ["tests.mlflow_fixtures"]
