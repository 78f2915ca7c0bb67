"""Floating-point operations of a training step, counted from shapes; product and sum are two."""

from itertools import pairwise
from typing import cast

from torch import nn

from protodl.network.layers import ResizeConv2d, TransposedConv2d, layer_sizes
from protodl.network.network import PrototypeNetwork


def step_operations(network: PrototypeNetwork, batch_size: int) -> int:
    """Operations of the convolutions and matrix products in forward and backward pass of a step.

    The backward pass takes each layer's forward products twice, for its weights and its inputs; the
    images and the matrices that spread the decoder's maps need no gradient.
    """
    encoder = encoder_operations(network)
    learned, spread = map(sum, zip(*decoder_operations(network), strict=True))
    head = 2 * len(network.prototypes) * network.num_classes
    return batch_size * (3 * (sum(encoder) + learned + head) + 2 * spread - encoder[0])


def encoder_operations(network: PrototypeNetwork) -> list[int]:
    """Forward operations of each encoder layer for one image."""
    layers = cast(list[nn.Conv2d], list(network.encoder.layers))
    sizes = layer_sizes(network.image_size)
    return [
        2 * 9 * layer.in_channels * layer.out_channels * size**2
        for layer, size in zip(layers, sizes[1:], strict=True)
    ]


def decoder_operations(network: PrototypeNetwork) -> list[tuple[int, int]]:
    """Forward operations of each decoder layer for one image, as they are carried out.

    Those of its weights, and those that spread the maps.
    """
    layers = cast(list[ResizeConv2d | TransposedConv2d], list(network.decoder.layers))
    sizes = layer_sizes(network.image_size)[::-1]
    counts = []
    for layer, (small, large) in zip(layers, pairwise(sizes), strict=True):
        inputs, outputs = layer.in_channels, layer.out_channels
        if isinstance(layer, ResizeConv2d) or layer.mix_first:
            widening = small * large * 3 * small * 3 * outputs
            heightening = large * 3 * small * large * outputs
            spreading = 2 * (widening + heightening)
        else:
            spreading = 0
        counts.append((2 * 9 * inputs * outputs * small**2, spreading))
    return counts
