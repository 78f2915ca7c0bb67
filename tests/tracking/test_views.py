"""The prepared views: what they show of runs that were recorded."""

import pytest
from mlflow.entities import Run

from protodl.tracking.pictures import PROTOTYPES, RECONSTRUCTIONS
from protodl.tracking.store import open_current
from protodl.tracking.sync import RowRuns
from protodl.tracking.views import shown, views
from tests.tracking.records import client, evaluation, seed_log

pytestmark = pytest.mark.usefixtures("project")

NUMBERS = {
    "test_accuracy": 0.9923333333333333,
    "test_accuracy_std": 0.0010692676621563,
    "published_accuracy": 0.992,
    "difference": 0.0003,
    "decode_agreement": 1.0,
    "independent_agreement": 14 / 15,
    "train_seconds": 335.123456,
    "num_epochs": 20,
    "num_seeds": 3,
}


def test_numbers_are_rounded_as_in_the_table() -> None:
    assert shown(NUMBERS) == {
        "test accuracy": "99.23 ± 0.11 %",
        "decode agreement": "100 %",
        "independent agreement": "93 %",
        "training of one seed": "5.6 min",
        "published": "99.20 %",
        "epochs": "20",
    }
    assert shown({**NUMBERS, "num_seeds": 1})["test accuracy"] == "99.23 %"
    assert shown({"test_loss": 0.5, "published_accuracy": 0.9}) == {}  # as on the sample


def in_view(key: str) -> list[Run]:
    """The runs that MLflow shows in a view, in its order."""
    (state,) = [view.state for view in views() if view.key == key]
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    experiment = open_current().experiment_id
    return list(client().search_runs([experiment], state["searchFilter"], order_by=[order]))


def test_runs_come_in_the_order_of_the_table_with_what_their_columns_show() -> None:
    rows = [RowRuns.of([seed_log(row, seed) for seed in (1, 0)]) for row in ("b", "c", "a")]
    for position, runs in reversed([*enumerate(rows, 9)]):
        runs.log_evaluations([evaluation(log, NUMBERS) for log in runs.logs])
        runs.log_result(NUMBERS, {})
        runs.place(position)
    assert [run.info.run_name for run in in_view("results")] == ["b", "c", "a"]
    seeds = [f"{row} seed {seed}" for row in "bca" for seed in (1, 0)]
    assert [run.info.run_name for run in in_view("curves")] == seeds
    for view in views():
        for run in in_view(view.key):
            columns = [name.removeprefix("tags.`")[:-1] for name in view.state["selectedColumns"]]
            assert set(columns) <= set(run.data.tags)
            assert all(len(run.data.tags[name]) < 20 for name in columns)


def test_charts_are_few_and_of_numbers_that_the_runs_have() -> None:
    runs = RowRuns.of([seed_log()])
    runs.log_evaluations([evaluation(runs.logs[0], NUMBERS)])
    runs.log_result(NUMBERS, {})
    for view in views():
        (run,) = in_view(view.key)
        charts = view.state["compareRunCharts"]
        assert 4 <= len(charts) <= 6
        measured = {chart["metricKey"] for chart in charts if "metricKey" in chart}
        assert measured <= set(run.data.metrics)
        pictures = {name for chart in charts for name in chart.get("imageKeys", [])}
        assert pictures == ({PROTOTYPES, RECONSTRUCTIONS} if view.key == "curves" else set())
