"""DVC's queue: experiments that are carried out later."""

import json
import time

from tests.pipeline.project import Project, stages_run

TARGETS = ("evaluate@grey", "evaluate@colour")


def test_a_queued_experiment_is_carried_out_later(project_copy: Project) -> None:
    changes = ["-S", "experiments.grey.model.num_prototypes=5"]
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
    row, log = project_copy.changed_row("wider"), project_copy.trained("wider")
    assert (row.model.num_prototypes, row.model.decoder) == (5, "upconv")
    assert log.parameters == row.model_dump()
    name = "results/rows/grey/evaluation/seed-0.json"
    details = json.loads(project_copy.experiment_file("wider", name))
    assert len(details["prototypes"]["class"]) == 5
    runs = project_copy.own_runs("wider")
    assert {run.data.params["model.decoder"] for run in runs} == {"upconv"}
