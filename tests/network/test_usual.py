"""How unusual an image is, against SciPy's and NumPy's statistics."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import combine_pvalues

from protodl.core.experiment_config import ModelConfig
from protodl.data.datasets import Split
from protodl.network.cases import measure_case_base
from protodl.network.network import NetworkOutput, PrototypeNetwork
from protodl.network.usual import (
    class_statistics,
    deviation,
    quantiles,
    rank,
    relative_error,
    surprise,
)


def test_distances_to_a_class_are_mahalanobis_s() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=generator) @ torch.tensor(
        [[2.0, 0.3, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 0.5]]
    )
    labels = torch.arange(400) % 3
    means, precisions = class_statistics(logits, labels)
    shown = torch.randn(20, 3, generator=generator)
    found = deviation(shown, means, precisions)
    for index, one in enumerate(shown):
        k = int(one.argmax())
        own = logits[labels == k].numpy().astype(float)
        inverse = np.linalg.inv(np.cov(own.T, bias=True))
        expected = mahalanobis(one.numpy(), own.mean(axis=0), inverse) ** 2
        assert float(found[index]) == pytest.approx(expected, rel=0.01)  # but for the ridge


def test_ranks_are_combined_as_fisher_did() -> None:
    first, second = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0.7, 0.97, 0.0])
    found = surprise(first, second)
    for value, r, s in zip(found.tolist(), first.tolist(), second.tolist(), strict=True):
        expected = combine_pvalues([1 - r, 1 - s], method="fisher").statistic / 2
        assert value == pytest.approx(expected, rel=1e-5)
    assert surprise(torch.ones(1)).isfinite().all()


def test_a_rank_is_the_share_below() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    ordered = quantiles(values)
    for share in (0.01, 0.5, 0.93):
        assert float(rank(values.quantile(share)[None], ordered)) == pytest.approx(share, abs=0.01)
    assert rank(torch.tensor([-9.0, 9.0]), ordered).tolist() == [0, 1]


def test_a_class_with_one_image_gets_the_statistics_of_all() -> None:
    logits = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(30, dtype=torch.int64)
    labels[0] = 1
    means, precisions = class_statistics(logits, labels)
    assert torch.allclose(means[1], logits.mean(dim=0), atol=1e-6)
    assert precisions.isfinite().all()


def test_one_percent_of_validation_images_is_more_unusual_than_99() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1500, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(1500) % 10
    train, validation = Split(images[:500], labels[:500]), Split(images[500:], labels[500:])
    network = PrototypeNetwork(ModelConfig(encoder_init="he"), 1, 28).eval()
    usual = measure_case_base(network, train, validation).usual
    with torch.inference_mode():
        for images, least, most in (
            (validation.images, 0.005, 0.015),
            (validation.images // 60, 0.99, 1.0),
        ):
            shown = images / 255
            output: NetworkOutput = network(shown)
            assert output.reconstructions is not None
            error = relative_error(shown, output.reconstructions)
            unusual = usual.unusualness(output.logits, error)
            assert least <= float((unusual > 0.99).float().mean()) <= most
