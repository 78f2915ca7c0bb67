"""What explanations compare with: nearest cases against a plain search, limits, the file."""

from pathlib import Path

import pytest
import torch

from protodl.core.experiment_config import ModelConfig
from protodl.core.files import CheckpointError
from protodl.data.datasets import Split
from protodl.network.cases import load_case_base, measure_case_base, nearest_cases, save_case_base
from protodl.network.network import PrototypeNetwork


def test_nearest_cases_are_those_of_a_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(300, 8, generator=generator)
    queries = torch.rand(7, 8, generator=generator)
    expected = (queries[:, None] - codes).norm(dim=2).sort(dim=1)

    indices, distances = nearest_cases(queries, codes, 3)

    assert torch.equal(indices, expected.indices[:, :3])
    torch.testing.assert_close(distances, expected.values[:, :3])


def test_a_case_is_nearest_to_itself_at_distance_zero() -> None:
    codes = 100 + torch.rand(50, 8, generator=torch.Generator().manual_seed(0))

    indices, distances = nearest_cases(codes, codes, 1)

    assert indices[:, 0].tolist() == list(range(50))
    assert distances.abs().max() == 0


def test_one_percent_of_validation_images_exceeds_the_limits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1200, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(1200) % 10
    train, validation = Split(images[:200], labels[:200]), Split(images[200:], labels[200:])
    network = PrototypeNetwork(ModelConfig(encoder_init="he"), channels=1, image_size=28).eval()

    save_case_base(measure_case_base(network, train, validation), tmp_path / "case_base.pt")
    case_base = load_case_base(tmp_path / "case_base.pt")

    with torch.inference_mode():
        codes = network.encode(validation.images / 255)
        distances = network.distances(codes)
    assert (distances.amin(dim=1) > case_base.usual.prototype_limit).sum() == 10
    assert (nearest_cases(codes, case_base.codes, 1)[1] > case_base.usual.case_limit).sum() == 10
    torch.testing.assert_close(case_base.usual.mean_distances, distances.mean(dim=0))
    assert torch.equal(case_base.labels, train.labels)
    with pytest.raises(CheckpointError, match="evaluate@"):
        load_case_base(tmp_path / "missing.pt")
