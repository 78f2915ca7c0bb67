"""Which test images are shown."""

from pathlib import Path

import pytest
import torch

from protodl.core.files import CheckpointError
from protodl.data.datasets import Split
from protodl.explanation.gallery import Gallery, choose, load_gallery, save_gallery

# Prediction and gap of each image: 0/9, 0/8, 1/3, 1/0.5, 2/7, 2/6, 0/0.5
LOGITS = torch.tensor(
    [
        [9.0, 0.0, 0.0],
        [8.0, 0.0, 0.0],
        [0.0, 3.0, 0.0],
        [0.0, 0.5, 0.0],
        [0.0, 0.0, 7.0],
        [0.0, 0.0, 6.0],
        [0.5, 0.0, 0.0],
    ]
)


def test_sure_ones_of_different_classes_the_closest_and_the_worst_errors() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0, 1, 1])
    assert choose(LOGITS, labels) == [
        ("correct", 0),
        ("correct", 2),
        ("borderline", 3),
        ("borderline", 6),
        ("wrong", 4),
        ("wrong", 5),
    ]


def test_a_kind_without_images_is_left_out() -> None:
    kinds = [kind for kind, _ in choose(LOGITS, LOGITS.argmax(dim=1))]
    assert kinds == ["correct", "correct", "borderline", "borderline"]
    (only,) = {kind for kind, _ in choose(LOGITS[:1], torch.tensor([2]))} - {"borderline"}
    assert only == "wrong"


def test_a_gallery_survives_the_file(tmp_path: Path) -> None:
    images = torch.arange(2 * 9, dtype=torch.uint8).view(2, 1, 3, 3)
    gallery = Gallery(
        ["correct", "wrong"], torch.tensor([4, 2]), Split(images, torch.tensor([1, 0]))
    )
    save_gallery(gallery, tmp_path / "gallery.pt")
    again = load_gallery(tmp_path / "gallery.pt")
    assert again.kinds == gallery.kinds
    assert torch.equal(again.indices, gallery.indices)
    assert torch.equal(again.cases.images, images)
    with pytest.raises(CheckpointError, match="evaluate@"):
        load_gallery(tmp_path / "missing.pt")
