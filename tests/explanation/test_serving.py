"""The explaining model as MLflow serves it: beside the library, and without it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import invocations

from protodl.core.experiment_config import ModelConfig
from protodl.data.datasets import DATASETS
from protodl.network.cases import CaseBase, nearest_cases, save_case_base
from protodl.network.checkpoint import save_network
from protodl.network.head import baseline, contributions, prototype_classes
from protodl.network.network import PrototypeNetwork
from protodl.tracking.project import sync_project
from tests.factories import usual, write_params, write_rows
from tests.mlflow_fixtures import empty_project

CLASSES = DATASETS["fashion-mnist"].class_names
NUM_PROTOTYPES = 12


def images(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).random((count, 1, 28, 28), dtype=np.float32)


@pytest.fixture(scope="module")
def network() -> PrototypeNetwork:
    torch.manual_seed(0)
    config = ModelConfig(num_prototypes=NUM_PROTOTYPES, encoder_init="he", head_init="kaiming")
    return PrototypeNetwork(config, 1, 28, 10).eval()


@pytest.fixture(scope="module")
@torch.inference_mode()
def case_base(network: PrototypeNetwork) -> CaseBase:
    """Of noise, with limits that some other noise exceeds."""
    codes, shown = (network.encode(torch.from_numpy(images(count))) for count in (40, 300))
    distances = network.distances(shown)
    prototype_limit = float(distances.amin(dim=1).median())
    case_limit = float(nearest_cases(shown, codes, 1)[1].median())
    return CaseBase(
        codes, torch.arange(40) % 10, usual(distances.mean(dim=0), prototype_limit, case_limit)
    )


@pytest.fixture(scope="module")
def folder(
    network: PrototypeNetwork,
    case_base: CaseBase,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> Path:
    """The logged model of a project in which one row was trained with two seeds."""
    root = tmp_path_factory.mktemp("project")
    row = {"dataset": "fashion-mnist", "model": {"num_prototypes": NUM_PROTOTYPES}}
    with pytest.MonkeyPatch.context() as patch:
        empty_project(root, migrated_database, patch)
        params = write_params(root, {"clothes": row}, seeds=[0, 1])
        write_rows(root / "rows", params, {"clothes": [0.9, 0.8]})
        save_network(network, root / "models/clothes/seed-1.pt")
        save_case_base(case_base, root / "models/references/clothes/seed-1.pt")
        sync_project(params, root / "rows", root / "models")
    words = [path for path in root.rglob("facts.json") if "case_limit" in path.read_text()]
    (facts,) = words  # the other model is the classifier
    return facts.parents[1]


@pytest.fixture(scope="module")
def model(folder: Path) -> PyFuncModel:
    loaded: PyFuncModel = mlflow.pyfunc.load_model(str(folder))
    return loaded


def explain(
    model: PyFuncModel, shown: npt.NDArray[np.float32], top: int | None = None
) -> list[dict[str, Any]]:
    answers: Any = model.predict(shown, params=None if top is None else {"top": top})
    return list(answers)


@pytest.mark.parametrize("count", [0, 1, 300])  # 300: more than are compared with the cases at once
@torch.inference_mode()
def test_the_answers_are_those_of_the_library(
    count: int, model: PyFuncModel, network: PrototypeNetwork, case_base: CaseBase
) -> None:
    answers = explain(model, images(count), NUM_PROTOTYPES)
    output = network(torch.from_numpy(images(count)), decode=False)
    weight = network.head.weight
    parts = contributions(output.distances, case_base.usual.mean_distances, weight)
    start = baseline(case_base.usual.mean_distances, weight, network.head.bias)
    to_case = nearest_cases(output.codes, case_base.codes, 1)[1][:, 0]
    assert len(answers) == count
    flags: list[bool] = []
    for n, answer in enumerate(answers):
        first, second = output.logits[n].topk(2).indices.tolist()
        chances = output.logits[n].softmax(dim=0)
        for key, k in {"prediction": first, "runner_up": second}.items():
            assert answer[key]["class"] == CLASSES[k]
            assert answer[key]["probability"] == pytest.approx(float(chances[k]), abs=1e-5)
            assert answer[key]["logit"] == pytest.approx(float(output.logits[n, k]), abs=1e-4)
        order = [named["index"] for named in answer["prototypes"]]
        assert sorted(order) == list(range(NUM_PROTOTYPES))
        columns = {
            key: [named[key] for named in answer["prototypes"]] for key in answer["prototypes"][0]
        }
        assert columns["contribution"] == sorted(columns["contribution"], reverse=True)
        expected = {
            "distance": output.distances[n],
            "contribution": parts[n, first],
            "contribution_to_runner_up": parts[n, second],
        }
        for key, values in expected.items():
            np.testing.assert_allclose(columns[key], values[order], atol=1e-4)
        classes = prototype_classes(weight)[order].tolist()
        assert columns["class"] == [CLASSES[k] for k in classes]
        for key, k in {"contribution": first, "contribution_to_runner_up": second}.items():
            total = answer["baseline_logits"][k] + sum(columns[key])
            assert total == pytest.approx(float(output.logits[n, k]), abs=1e-3)
            assert answer["baseline_logits"][k] == pytest.approx(float(start[k]), abs=1e-5)
        strange = answer["out_of_distribution"]
        assert strange["case_distance"] == pytest.approx(float(to_case[n]), abs=1e-4)
        assert strange["prototype_distance"] == min(columns["distance"])
        near = strange["prototype_distance"] <= strange["prototype_limit"]
        near |= strange["case_distance"] <= strange["case_limit"]
        assert strange["flag"] == (not near)
        assert strange["prototype_limit"] == pytest.approx(
            case_base.usual.prototype_limit, abs=1e-5
        )
        assert strange["case_limit"] == pytest.approx(case_base.usual.case_limit, abs=1e-5)
        flags.append(strange["flag"])
    assert count < 300 or set(flags) == {False, True}


def test_the_server_s_way_from_a_request_to_an_answer(
    model: PyFuncModel,
) -> None:
    shown = images(2)
    request = json.dumps({"inputs": shown.tolist(), "params": {"top": 2}})
    schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
    answer = invocations(  # type: ignore[no-untyped-call]
        request.encode(), "application/json", model, schema
    )
    assert answer.status == 200
    predictions = json.loads(answer.response)["predictions"]
    assert predictions == explain(model, shown, 2)
    assert [len(each["prototypes"]) for each in predictions] == [2, 2]
    assert [len(each["prototypes"]) for each in explain(model, shown)] == [3, 3]
    assert {(each["row"], each["seed"]) for each in predictions} == {("clothes", 1)}


@pytest.mark.parametrize(
    ("shown", "top", "message"),
    [
        (images(2) * 255, 3, r"pixels from .* to 25\d.*: must lie in \[0, 1\]; divide bytes"),
        (images(2) * np.float32(np.nan), 3, "pixels from nan"),
        (images(2), 0, "top = 0: must be at least 1"),
        (np.zeros((2, 3, 32, 32), np.float32), 3, "Shape of input"),
    ],
)
def test_a_wrong_request_is_named(
    shown: npt.NDArray[np.float32], top: int, message: str, model: PyFuncModel
) -> None:
    with pytest.raises(MlflowException, match=message):
        explain(model, shown, top)


WITHOUT_PROTODL = """
import json, sys
sys.modules["protodl"] = None  # an import of it fails
import mlflow.pyfunc
import numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(np.zeros((1, 1, 28, 28), np.float32))
assert not [name for name in sys.modules if name.startswith("protodl.")]
print(json.dumps(answer))
"""


def test_it_answers_where_protodl_cannot_be_imported(
    folder: Path, model: PyFuncModel, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROTODL, str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert [answer] == explain(model, np.zeros((1, 1, 28, 28), np.float32))
    facts = model.metadata.metadata
    assert facts
    assert (facts["row"], facts["class_names"]) == ("clothes", list(CLASSES))
