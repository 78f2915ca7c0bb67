"""DVC's experiments, carried out: what is swept most often, changed in one row alone."""

import json

import mlflow
from mlflow.entities import Run

from protodl.core.config import Experiment, load_params
from protodl.core.training_log import SeedLog
from tests.pipeline.project import Project, stages_run

OF_GREY = {"train@grey", "evaluate@grey", "prototypes@grey", "report"}


def own_runs(project: Project, experiment: str) -> list[Run]:
    """Runs of the experiment in the project's own store, not in that of a copy of it."""
    client = mlflow.MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    found = client.get_experiment_by_name("protodl")
    assert found is not None
    where = f"tags.dvc_experiment = '{experiment}'"
    return list(client.search_runs([found.experiment_id], where))


def changed_row(project: Project, experiment: str) -> Experiment:
    """The row grey in the experiment's params.yaml; the other one is what it was."""
    before = load_params(project.folder / "params.yaml").experiments
    path = project.folder / f"{experiment}.yaml"
    path.write_text(project.experiment_file(experiment, "params.yaml"))
    after = load_params(path).experiments
    assert after["colour"] == before["colour"]
    return after["grey"]


def trained(project: Project, experiment: str) -> SeedLog:
    """How the experiment trained the row grey."""
    name = "results/rows/grey/training/seed-0.json"
    return SeedLog.model_validate_json(project.experiment_file(experiment, name))


def test_an_experiment_in_a_temporary_copy_is_linked_to_its_run(project_copy: Project) -> None:
    changes = ["-S", "experiments.grey.optimizer.lr=1e-3"]  # a string to PyYAML
    changes += ["-S", "experiments.grey.epochs=1"]
    targets = ("evaluate@grey", "evaluate@colour")
    output = project_copy.dvc("exp", "run", "--temp", "--name", "slower", *changes, *targets)
    assert stages_run(output) == {"train@grey", "evaluate@grey"}
    assert '"slower"' in json.dumps(json.loads(project_copy.dvc("exp", "show", "--json")))
    row, log = changed_row(project_copy, "slower"), trained(project_copy, "slower")
    assert (row.optimizer.lr, row.epochs) == (0.001, 1)
    assert log.parameters == row.model_dump()
    assert log.num_epochs == 1
    runs = own_runs(project_copy, "slower")
    assert {run.data.tags["row"] for run in runs} == {"grey"}
    assert {run.data.params["optimizer.lr"] for run in runs} == {"0.001"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert log.run_id in {run.info.run_id for run in runs}


def test_a_queued_experiment_is_carried_out_later(project_copy: Project) -> None:
    changes = ["-S", "experiments.grey.model.num_prototypes=5"]
    changes += ["-S", "experiments.grey.model.decoder=upconv"]
    project_copy.dvc("exp", "run", "--queue", "--name", "wider", *changes)
    assert "Queued" in project_copy.dvc("queue", "status")
    project_copy.dvc("exp", "run", "--run-all")
    assert "Success" in project_copy.dvc("queue", "status")
    assert stages_run(project_copy.dvc("queue", "logs", "wider")) == OF_GREY
    row, log = changed_row(project_copy, "wider"), trained(project_copy, "wider")
    assert (row.model.num_prototypes, row.model.decoder) == (5, "upconv")
    assert log.parameters == row.model_dump()
    name = "results/rows/grey/evaluation/seed-0.json"
    details = json.loads(project_copy.experiment_file("wider", name))
    assert len(details["prototypes"]["class"]) == 5
    runs = own_runs(project_copy, "wider")
    assert {run.data.params["model.decoder"] for run in runs} == {"upconv"}
