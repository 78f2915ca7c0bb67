"""A row as a folder for others: complete, read back bit for bit, and the same in ONNX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

import protodl
from protodl.cli import main
from protodl.explanation.loading import load
from protodl.explanation.portable import load_portable, save_portable
from protodl.network.head import baseline
from tests.factories import ROW, write_project


@pytest.fixture(name="project", scope="module")
def _project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(name="folder", scope="module")
def _folder(project: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("DVC_ROOT", str(project))
        assert main(["export", ROW, "for-others", "--onnx"]) == 0
    return project / "for-others"


def test_the_folder_is_what_the_hub_takes(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "prototypes.png", "example.png",
        "explanation.png", "classifier.onnx", "explainer.onnx",
    }  # fmt: skip
    _, front, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-classification"
    for name in ("prototypes.png", "explanation.png"):
        assert f"({name})" in card
        with Image.open(folder / name) as picture:
            assert picture.width > 100
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["num_prototypes"] == 12
    assert config["dataset"]["class_names"] == [*"0123456789"]


def test_it_is_read_back_bit_for_bit(folder: Path, project: Path) -> None:
    own, again = load(ROW, root=project), protodl.load(str(folder))
    for name, value in own.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    found = protodl.explain(again, folder / "example.png")
    assert found.prototypes[0].contribution > 0


def test_a_folder_can_be_exported_again(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder), str(tmp_path / "copy")]) == 0
    first, second = (path / "model.safetensors" for path in (folder, tmp_path / "copy"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        *({"distance": name} for name in ("euclidean", "squared_euclidean", "none")),
        {"architecture": "resnet", "decoder": "resnet", "width": 2, "code_size": 6},
    ],
)
def test_onnx_gives_the_same_numbers(
    changes: dict[str, object], tmp_path: Path, project: Path
) -> None:
    own = load(ROW, root=project)
    config = own.network.config.model_copy(update=changes)
    torch.manual_seed(0)
    network = type(own.network)(config, 1, 28).eval()
    model = type(own)(ROW, 0, own.info, network, own.usual, own.prototype_cases, None)
    save_portable(model, {}, tmp_path / "in" / "model.safetensors")
    assert load_portable(tmp_path / "in" / "model.safetensors")[1] == {}
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out"), "--onnx"]) == 0
    for count in (1, 5):
        images = np.random.default_rng(count).random((count, 1, 28, 28), dtype=np.float32)
        with torch.no_grad():
            output = network(torch.from_numpy(images))
            start = baseline(own.usual.mean_distances, network.head.weight, network.head.bias)
        classifier, explainer = (
            onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx")
            for name in ("classifier", "explainer")
        )
        (probabilities,) = classifier.run(None, {"images": images})
        logits, parts, distances = explainer.run(None, {"images": images})
        expected = output.logits.softmax(dim=1).numpy()
        assert np.allclose(probabilities, expected, rtol=0, atol=1e-5)
        assert np.allclose(logits, output.logits.numpy(), rtol=1e-5, atol=1e-5)
        assert np.allclose(distances, output.distances.numpy(), rtol=1e-5, atol=1e-5)
        assert np.allclose(parts.sum(axis=2) + start.numpy(), logits, rtol=1e-5, atol=1e-4)


def test_what_onnx_needs_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", ROW, str(tmp_path / "out"), "--onnx"]) == 1
    assert "pip install 'protodl[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
