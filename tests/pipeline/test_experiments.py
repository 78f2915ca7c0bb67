"""DVC's experiments, carried out from its queue: what is swept most often, in one row alone."""

import json
import time

from tests.pipeline.project import Project, stages_run

TARGETS = ("evaluate@grey", "evaluate@colour")


def test_a_queued_experiment_is_carried_out_and_linked_to_its_run(project_copy: Project) -> None:
    changes = ["-S", "experiments.grey.optimizer.lr=1e-3"]  # a string to PyYAML
    changes += ["-S", "experiments.grey.epochs=1"]
    changes += ["-S", "experiments.grey.model.num_prototypes=5"]
    changes += ["-S", "experiments.grey.model.decoder=upconv"]
    project_copy.dvc("exp", "run", "--queue", "--name", "wider", *changes, *TARGETS)
    assert "Queued" in project_copy.dvc("queue", "status")
    project_copy.dvc("queue", "start")
    end = time.monotonic() + 300
    while "/wider" not in project_copy.git_output("for-each-ref", "refs/exps"):
        assert time.monotonic() < end, project_copy.dvc("queue", "logs", "wider")
        time.sleep(0.2)
    assert "Success" in project_copy.dvc("queue", "status")
    assert stages_run(project_copy.dvc("queue", "logs", "wider")) == {"train@grey", "evaluate@grey"}
    assert '"wider"' in json.dumps(json.loads(project_copy.dvc("exp", "show", "--json")))

    row, log = project_copy.changed_row("wider"), project_copy.trained("wider")
    assert (row.optimizer.lr, row.epochs) == (0.001, 1)
    assert (row.model.num_prototypes, row.model.decoder) == (5, "upconv")
    assert log.parameters == row.model_dump()
    assert log.num_epochs == 1
    name = "results/rows/grey/evaluation/seed-0.json"
    details = json.loads(project_copy.experiment_file("wider", name))
    assert len(details["prototypes"]["class"]) == 5

    runs = project_copy.own_runs("wider")
    assert {run.data.tags["row"] for run in runs} == {"grey"}
    assert {run.data.params["optimizer.lr"] for run in runs} == {"0.001"}
    assert {run.data.params["model.decoder"] for run in runs} == {"upconv"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert log.run_id in {run.info.run_id for run in runs}
