"""The prepared views of an experiment: which runs, columns and charts MLflow shows, in what order.

MLflow keeps a view as a tag of its experiment; the format is its own and undocumented. It lists
the views under "Views" and opens one whose name is in the address.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from protodl.evaluation.measures import MEASURES, Measure, Unit
from protodl.tracking.pictures import PROTOTYPES, RECONSTRUCTIONS

RESULTS, CURVES = "results", "curves"  # keys of the views
POSITION = "table_position"  # tag of runs: 001 for the first row, 001.000 for its first seed
PUBLISHED, EPOCHS = "published", "epochs"
SHOWN = ("test_accuracy", "decode_agreement", "independent_agreement", "train_seconds")
UNITS: Mapping[Unit, str] = {"%": " %", "min": " min", "count": "", "ratio": ""}
FIXED = {"attributes.`Run Name`": 240, "runDateAndNestInfo": 110}  # MLflow's own columns: pixels
LETTER, PADDING = 7, 26  # pixels, of a column's heading
LINES = ("validation/accuracy", "train/accuracy", "train/loss")
GENERATED = ("train", "validation", "Model metrics", "System metrics")  # sections that MLflow adds


class View(NamedTuple):
    """A view as MLflow's tag holds it."""

    key: str
    name: str
    state: dict[str, Any]
    charts_first: bool

    @property
    def tag(self) -> tuple[str, str]:
        """Name and value of the experiment's tag: what newer versions read, and older ones."""
        packed = b64encode(zlib.compress(json.dumps(self.state).encode())).decode()
        envelope = {"name": self.name, "createdAt": 0, "state": f"deflate;{packed}"}
        return f"mlflow.sharedViewState.{self.key}", json.dumps({**envelope, **self.state})

    @property
    def query(self) -> str:
        """What follows the `?` in the address that opens it."""
        query = f"workflowType=machine_learning&viewStateShareKey={self.key}"
        return query + "&compareRunsMode=CHART" * self.charts_first


def shown(numbers: Mapping[str, float]) -> dict[str, str]:
    """The numbers of a row or a seed as the columns of a view show them: tags, by heading."""
    texts = {_heading(name): _text(MEASURES[name], numbers) for name in SHOWN if name in numbers}
    if "difference" in numbers:  # else, as on the sample, it does not compare
        texts[PUBLISHED] = _with_unit(MEASURES["test_accuracy"], numbers["published_accuracy"])
    if "num_epochs" in numbers:
        texts[EPOCHS] = f"{numbers['num_epochs']:.0f}"
    return texts


def _heading(name: str) -> str:
    return MEASURES[name].title


def _text(measure: Measure, numbers: Mapping[str, float]) -> str:
    text = _with_unit(measure, numbers[measure.name])
    spread = numbers.get(f"{measure.name}_std")
    if "std" not in measure.over_seeds or spread is None or numbers.get("num_seeds", 1) < 2:
        return text
    return f"{measure.text(numbers[measure.name])} ± {_with_unit(measure, spread)}"


def _with_unit(measure: Measure, value: float) -> str:
    return measure.text(value) + UNITS[measure.unit]


def views() -> list[View]:
    """The views of every experiment: the table, and the learning curves of its rows."""
    return [
        View(RESULTS, "Results: rows", _results(), charts_first=False),
        View(CURVES, "Learning curves: seeds", _curves(), charts_first=True),
    ]


def _results() -> dict[str, Any]:
    first, *others = map(_heading, SHOWN)
    bars = [_chart("BAR", "results", name, metricKey=name) for name in SHOWN]
    return {
        **_runs("row", [first, PUBLISHED, *others, EPOCHS]),
        **_sections({"results": "Results"}, bars),
    }


def _curves() -> dict[str, Any]:
    lines = [
        _chart("LINE", "curves", name, metricKey=name, selectedMetricKeys=[name]) for name in LINES
    ]
    pictures = [
        _chart("IMAGE", "pictures", name, imageKeys=[name], step=0, showRunParams=False)
        for name in (PROTOTYPES, RECONSTRUCTIONS)
    ]
    sections = {"curves": "Learning curves", "pictures": "Pictures"}
    return {
        **_runs("seed", [*map(_heading, SHOWN), EPOCHS]),
        **_sections(sections, [*lines, *pictures]),
        # One line for each row, the mean over its seeds.
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "row"}],
        },
        "runsHiddenMode": "SHOW_ALL",
    }


def _runs(kind: str, headings: Sequence[str]) -> dict[str, Any]:
    """Runs of a kind in the table's order, with these columns."""
    columns = {f"tags.`{heading}`": LETTER * len(heading) + PADDING for heading in headings}
    widths = FIXED | columns
    return {
        "searchFilter": f"tags.kind = '{kind}'",
        "orderByKey": f"tags.`{POSITION}`",
        "orderByAsc": True,
        "selectedColumns": [*columns],
        "columnOrder": [*widths],
        "columnWidths": widths,
        "viewMaximized": True,
    }


def _chart(kind: str, section: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "uuid": name,
        "type": kind,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        **more,
    }


def _sections(named: Mapping[str, str], charts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The charts in their sections; MLflow adds one for every other metric, in closed sections."""
    sections = {**named, **{name: name for name in GENERATED}}
    return {
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": key,
                "name": name,
                "display": key in named,
                "isReordered": False,
                "deleted": False,
                "isGenerated": key not in named,
            }
            for key, name in sections.items()
        ],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
    }
