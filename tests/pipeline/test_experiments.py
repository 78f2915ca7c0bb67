"""DVC's experiments, carried out: what is swept most often, changed in one row alone."""

import json

from tests.pipeline.project import Project, stages_run


def test_an_experiment_in_a_temporary_copy_is_linked_to_its_run(project_copy: Project) -> None:
    changes = ["-S", "experiments.grey.optimizer.lr=1e-3"]  # a string to PyYAML
    changes += ["-S", "experiments.grey.epochs=1"]
    targets = ("train@grey", "train@colour")
    output = project_copy.dvc("exp", "run", "--temp", "--name", "slower", *changes, *targets)
    assert stages_run(output) == {"train@grey"}
    assert '"slower"' in json.dumps(json.loads(project_copy.dvc("exp", "show", "--json")))
    row, log = project_copy.changed_row("slower"), project_copy.trained("slower")
    assert (row.optimizer.lr, row.epochs) == (0.001, 1)
    assert log.parameters == row.model_dump()
    assert log.num_epochs == 1
    runs = project_copy.own_runs("slower")
    assert {run.data.tags["row"] for run in runs} == {"grey"}
    assert {run.data.params["optimizer.lr"] for run in runs} == {"0.001"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert log.run_id in {run.info.run_id for run in runs}
