"""A trained row as a folder in the shape that the Hugging Face Hub takes.

model.safetensors   network and all that its explanations need but the data
config.json         the same facts as text: sizes, classes, parameters, what was measured
README.md           the model card
prototypes.png, example.png, explanation.png
classifier.onnx, explainer.onnx   where asked for
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from protodl.core.errors import ProtodlError
from protodl.core.files import replacing, write_json, write_text
from protodl.core.machine import project_root
from protodl.explanation.loading import WEIGHTS_NAME, load
from protodl.explanation.local import explain
from protodl.explanation.model import Model
from protodl.explanation.portable import load_portable, portable_facts, save_portable
from protodl.explanation.serving import Reasons
from protodl.network.network import Classifier
from protodl.pipeline.ship import measurements
from protodl.report.cards import templates
from protodl.report.figures.explanation_sheet import explanation_figure
from protodl.report.figures.page import save
from protodl.report.sheets import prototypes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUTS = {"classifier": ["probabilities"], "explainer": ["logits", "contributions", "distances"]}


def export_row(row: str, seed: int | None, folder: Path, onnx: bool = False) -> list[Path]:
    """Write a row that is trained here or shipped; returns the files.

    Raises:
        ProtodlError: the row is neither, or `onnx` needs packages that are missing.
        OSError: the folder cannot be written.
    """
    if onnx:
        _need_onnx()
    model = load(row, seed)
    measured = _measured(model)
    facts = portable_facts(model, measured)
    save_portable(model, measured, folder / WEIGHTS_NAME)
    write_json(facts, folder / "config.json")
    _draw(model, folder)
    card = templates().get_template("hub.md").render(model=model, measured=measured, onnx=onnx)
    write_text(card, folder / "README.md")
    if onnx:
        _write_onnx(Classifier(model.network), model, folder / "classifier.onnx")
        _write_onnx(Reasons(model.network, model.usual), model, folder / "explainer.onnx")
    return sorted(folder.iterdir())


def _measured(model: Model) -> dict[str, Any]:
    """What is known of a model: from the project's files, or from the file that it came in."""
    if model.file is not None:
        return load_portable(model.file)[1]
    return measurements(project_root(), model.row, model.seed)


def _draw(model: Model, folder: Path) -> None:
    """The prototypes, and as an example one of their nearest training images, explained."""
    save(prototypes_of(model), folder / "prototypes.png")
    case = model.prototype_cases[0]
    pixels = np.asarray(case.picture).transpose(1, 2, 0)
    with replacing(folder / "example.png") as temporary:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
            temporary, "PNG"
        )
    explanation = explain(model, torch.as_tensor(case.picture), name="example")
    save(explanation_figure(explanation), folder / "explanation.png")


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ProtodlError(f"--onnx needs {error.name}: pip install 'protodl[onnx]'") from None


def _write_onnx(module: "nn.Module", model: Model, path: Path) -> None:
    """Write a module that takes images (N, C, H, W) in [0, 1], with any N."""
    images: Tensor = torch.rand(2, *model.info.shape)
    batch = torch.export.Dim("batch", min=1)
    with replacing(path) as temporary:
        torch.onnx.export(
            module.eval(), (images,), temporary, input_names=["images"],
            output_names=OUTPUTS[path.stem], dynamic_shapes=({0: batch},), dynamo=True,
            external_data=False, verbose=False,
            custom_translation_table={torch.ops.aten._cdist_forward.default: _distances},
        )  # fmt: skip


def _distances(first: Any, second: Any, _p: float, _mode: int) -> Any:
    """Euclidean distances (N, P) of (N, D) and (P, D) in ONNX, which torch has no words for."""
    from onnxscript import opset18

    op: Any = opset18  # its types know no plain numbers
    difference = op.Sub(op.Unsqueeze(first, [1]), second)
    return op.Sqrt(op.ReduceSum(op.Mul(difference, difference), [2], keepdims=0))
