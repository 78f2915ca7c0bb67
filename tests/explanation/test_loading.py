"""Where weights are found: trained here before shipped; a folder that was exported."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import protodl
from protodl.cli import main
from protodl.core.config import ConfigError
from protodl.core.files import CheckpointError
from protodl.explanation.loading import WEIGHTS_NAME, known_rows, load
from protodl.explanation.portable import save_portable
from tests.factories import ROW

MEASURED = {"source": "measured here", "test_accuracy": 0.75}


@pytest.fixture(name="shipped")
def _shipped(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped weights of the project's row and of another one; outside of any project."""
    model, folder = load(ROW, root=project), tmp_path / "shipped"
    for row in (ROW, "shipped-row"):
        save_portable(model, MEASURED, folder / f"{row}.safetensors")
    monkeypatch.setattr("protodl.explanation.loading.SHIPPED", folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


@pytest.mark.usefixtures("shipped")
def test_what_was_trained_here_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(ROW, root=project).training_cases is not None
    assert known_rows(project) == {ROW: "trained here", "shipped-row": "shipped"}
    monkeypatch.chdir(project)
    assert load(ROW).origin == ""
    with pytest.raises(CheckpointError, match=rf"seed-1\.pt: not there; make it: .* run {ROW} "):
        load(ROW, 1)
    with pytest.raises(ConfigError, match="has no seed 7"):
        load(ROW, 7)
    assert load("shipped-row").origin


@pytest.mark.usefixtures("shipped")
def test_without_data_or_project_the_shipped_weights_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = protodl.load(ROW)
    assert model.origin == (
        "By the weights shipped with protodl: seed 0 of the published table, "
        "75.00 % of the test images right (measured here)."
    )
    Image.radial_gradient("L").point(lambda value: 255 - value).resize((28, 28)).save("digit.png")
    assert main(["explain", ROW, "digit.png"]) == 0
    out = capsys.readouterr().out
    assert "weights shipped with protodl" in out
    assert "left out: they need the data" in out
    assert Path("explanations", ROW, "digit.png").is_file()
    with pytest.raises(ConfigError, match=f"tiny-rwo: not among the rows .* mean '{ROW}'"):
        load("tiny-rwo")
    assert main(["explain", ROW, "--test", "0"]) == 1
    assert "run this inside" in capsys.readouterr().err


@pytest.mark.usefixtures("shipped")
def test_a_folder_that_was_exported_is_a_row(project: Path, tmp_path: Path) -> None:
    save_portable(load(ROW, root=project), MEASURED, tmp_path / "mine" / WEIGHTS_NAME)
    model = load(tmp_path / "mine")
    assert model.origin.startswith(f"By the weights in {tmp_path / 'mine'}")
    answer = protodl.explain(model, np.tile(np.linspace(0, 1, 28), (1, 28, 1)))
    assert model.origin in answer.remarks
