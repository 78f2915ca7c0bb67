"""Fixtures for all tests, and the order in which their modules run."""

import os
import signal
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from protodl.core.limits import available_cpus
from tests.shared import MINUTES, time_is_up

# One thread each, before torch is imported: the tests run in parallel on few processors. MLflow is
# as quiet as protodl makes it.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
for variable, value in VARIABLES.items():
    os.environ.setdefault(variable, value)

# Tests send these to processes, which would inherit that they are ignored below `nohup` or `&`.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

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


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many tests wait for a server or a command."""
    return available_cpus() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; the others stay in the order of their names."""
    place = {Path(__file__).parent / name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and time_is_up():
        pytest.skip(f"the {MINUTES:g} minutes of PROTODL_MINUTES are over")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What long runs have measured, one line a test and number, also of many processes."""
    measured: dict[str, list[float]] = defaultdict(list)
    reports = [
        each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())
    ]
    for report in reports:
        if report.when == "call" and "slow" in report.keywords:
            test = report.nodeid.partition("[")[0]
            for name, value in [("seconds", report.duration), *report.user_properties]:
                measured[f"{test}: {name}"].append(value)
    if measured:
        terminalreporter.section("measured")
    for name, values in measured.items():
        numbers = f"mean {fmean(values):.1f}, at most {max(values):.1f}, {len(values)} times"
        terminalreporter.write_line(f"{name}: {numbers}")
