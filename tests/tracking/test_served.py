"""A classifier as MLflow loads it, on any machine."""

from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from protodl.tracking.live import start_seed
from tests.tracking.records import client, record, seed_log, served

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    "config", [{}, {"architecture": "resnet", "decoder": "resnet", "width": 2, "code_size": 6}]
)
def test_the_model_answers_any_batch_from_another_folder_also_beside_a_gpu(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served(**config)
    with start_seed(seed_log()) as tracker:
        tracker.log_epoch(record(1))
        tracker.log_model(model, step=1, validation_accuracy=0.75)
    (version,) = client().search_model_versions("name = 'protodl-mnist'")
    assert version.run_id == tracker.run_id
    expected = {"row": "a", "seed": "0", "validation_accuracy": "0.75"}
    assert expected.items() <= version.tags.items()
    copied = mlflow.artifacts.download_artifacts("models:/protodl-mnist/1", dst_path=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for address, device in (("models:/protodl-mnist/1", "cpu"), (copied, "cuda")):
        # MLflow takes cuda by default wherever torch sees a GPU.
        monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", device)
        loaded = mlflow.pyfunc.load_model(address)
        for size in (0, 1, 300):
            images = np.random.default_rng(size).random((size, 1, 28, 28), dtype=np.float32)
            scores = model.module(torch.from_numpy(images)).detach().numpy()
            np.testing.assert_allclose(loaded.predict(images), scores, rtol=1e-5, atol=1e-5)
    with pytest.raises(MlflowException, match=r"pixels from .* to 25\d.*: must lie in \[0, 1\]"):
        loaded.predict(255 * images)
    assert loaded.metadata.metadata["class_names"] == list("0123456789")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    requirements = (Path(copied) / "requirements.txt").read_text()
    assert f"mlflow=={mlflow.__version__}" in requirements
    assert "+cpu" not in requirements
