"""A real `dvc repro` on the sample: what it leaves behind, and what runs again after an edit."""

import csv

import pytest

from protodl.core.training_log import SeedLog
from protodl.evaluation.examiner import SHORT
from tests.pipeline.project import PARAMS, Project, stages_run


@pytest.fixture(name="project", scope="module")
def _project(computed: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy for this module; who changes params.yaml puts it back."""
    return computed.copy(tmp_path_factory.mktemp("repro") / "copy")


def test_repro_makes_table_models_curves_and_pictures(computed: Project) -> None:
    rows = computed.read("results/results.json")
    assert [row["row"] for row in rows] == ["grey", "colour"]
    assert all(0 <= row["test_accuracy_mean"] <= 1 for row in rows)
    for page in ("RESULTS.md", "report/index.html"):
        assert "not comparable" in (computed.folder / page).read_text().lower()
    for row, prototypes in (("grey", 4), ("colour", 6)):
        folder = computed.folder / "results" / "rows" / row
        pictures = {path.stem for path in (folder / "pictures").glob("*.png")}
        expected = {"samples", "prototypes", "curves", "weights", "confusion", "reasons"}
        assert pictures == expected
        sheets = {path.stem for path in (folder / "explanations").glob("*.png")}
        assert {"correct-1", "borderline-1", "borderline-2", "wrong-1"} <= sheets
        assert sheets == {path.stem for path in (folder / "explanations").glob("*.json")}
        assert (computed.folder / "models" / row / "seed-0.pt").is_file()
        log = SeedLog.read(folder / "training" / "seed-0.json")
        with (folder / "curves.csv").open() as file:
            curves = list(csv.DictReader(file))
        assert len(curves) == log.num_epochs == len(log.history)
        details = computed.read(f"results/rows/{row}/evaluation/seed-0.json")
        assert len(details["prototypes"]["class"]) == prototypes
        assert sum(map(sum, details["confusion"])) == (500 if row == "grey" else 400)


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert stages_run(project.dvc("repro")) == set()


def would_run(project: Project) -> set[str]:
    """Stages that `dvc repro` would run now, as far as they are known beforehand."""
    done = project.run_dvc("repro", "--dry")
    # A dry run ends with an error where a new row's model is not there yet to be looked at.
    assert done.returncode == 0 or "models/new" in done.stderr, done.stderr
    return stages_run(done.stdout)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (("lr: 4e-3", "lr: 1e-3"), {"report", "train@grey", "evaluate@grey"}),
        (("  grey:", "  # a comment\n  grey:"), set()),
        (("  grey:", "  new: {dataset: mnist, epochs: 1}\n  grey:"), {"train@new"}),
    ],
    ids=["one lr", "a comment", "a row more"],
)
def test_an_edit_runs_what_it_changes(
    project: Project, change: tuple[str, str], stages: set[str]
) -> None:
    """The pictures of a changed row follow once its model is another: no dry run knows that."""
    project.write_params(PARAMS.replace(*change))
    try:
        assert would_run(project) == stages
    finally:
        project.write_params(PARAMS)


def test_all_that_is_said_of_a_row_follows_its_training(computed: Project) -> None:
    output = computed.dvc("repro", "--dry", "--force", "--downstream", "train@grey")
    assert stages_run(output) == {"train@grey", "evaluate@grey", "prototypes@grey", "report"}


def test_a_removed_row_leaves_the_table(project: Project) -> None:
    project.write_params(PARAMS[: PARAMS.index("  colour:")])
    try:
        assert stages_run(project.dvc("repro")) == {"report"}
        assert [row["row"] for row in project.read("results/results.json")] == ["grey"]
        assert "colour" not in (project.folder / "RESULTS.md").read_text()
    finally:
        project.write_params(PARAMS)


def test_a_wrong_params_file_stops_before_any_work(project: Project) -> None:
    project.write_params(PARAMS.replace("epochs: 2", "epoch: 2"))
    try:
        done = project.run_dvc("repro")
    finally:
        project.write_params(PARAMS)
    assert done.returncode != 0
    assert "did you mean 'epochs'" in done.stderr
    started = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert started == ["Running stage 'check':"]


def test_dvc_metrics_and_plots_show_the_rows(project: Project) -> None:
    shown = project.dvc("metrics", "show", "--md")
    head, _, *lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert [name.strip() for name in head.strip("|").split("|")][1:] == sorted(SHORT)
    paths = [line.split("|")[1].strip() for line in lines]
    assert sorted(paths) == [f"results/rows/{row}/summary.json" for row in ("colour", "grey")]
    assert max(map(len, lines)) < 200
    project.dvc("plots", "show", "-o", str(project.folder / "dvc_plots"))
    assert "validation_accuracy" in (project.folder / "dvc_plots" / "index.html").read_text()
