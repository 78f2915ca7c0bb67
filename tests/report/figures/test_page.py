"""Pictures as files: exact, the same bytes each time, small, and in the project's own style."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protodl.report.figures.matrices import weights_figure
from protodl.report.figures.page import save, to_array
from protodl.report.figures.prototypes import prototypes_figure
from protodl.report.figures.reasons import reasons_figure
from protodl.report.figures.samples import samples_figure
from tests.report.figures.drawings import (
    CIFAR,
    explanation,
    head_weights,
    places_of,
    prototypes_of,
    smooth_images,
)


def test_a_saved_picture_is_what_was_drawn_and_carries_no_date_nor_software(tmp_path: Path) -> None:
    path = tmp_path / "new" / "prototypes.png"
    images, figure = prototypes_of(6)
    save(figure, path)
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert set(image.info) <= {"dpi"}
        page = np.asarray(image.convert("RGB"))
    assert (page == to_array(figure)).all()
    assert places_of(images[5], page)
    _, again = prototypes_of(6)
    save(again, path)
    assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["prototypes.png"]


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    _, figure = prototypes_of(1)
    with pytest.raises(OSError, match=r"taken\.png"):
        save(figure, tmp_path / "taken.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.png"]


def test_files_are_small_also_in_colour(tmp_path: Path) -> None:
    images, weights = smooth_images(50, 3, 32), head_weights(50)
    drawn = {
        "prototypes": prototypes_figure(
            images, weights.argmin(axis=0), weights.min(axis=0), CIFAR, images[::-1]
        ),
        "weights": weights_figure(weights, CIFAR, images),
        "samples": samples_figure(images[:10], images[10:20]),
        "reasons": reasons_figure(explanation(15), "Tiny"),
    }
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        size = (tmp_path / f"{name}.png").stat().st_size
        assert size < 140_000, f"{name}: {size} bytes"  # the random hues compress worst
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_neither_pyplot_nor_the_users_own_style_has_a_say(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\ntext.antialiased: False\n")
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import matplotlib
        import numpy as np
        from protodl.report.figures.page import save
        from protodl.report.figures.samples import samples_figure
        images = np.zeros((2, 1, 4, 4))
        save(samples_figure(images, images), Path(sys.argv[1]))
        assert "matplotlib.pyplot" not in sys.modules
        assert matplotlib.rcParams["font.size"] == 20
    """)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "MATPLOTLIBRC": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "styled.png")]
    subprocess.run(command, check=True, env=environment)
    images = np.zeros((2, 1, 4, 4))
    save(samples_figure(images, images), tmp_path / "plain.png")
    assert (tmp_path / "styled.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
