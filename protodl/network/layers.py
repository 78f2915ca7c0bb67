"""Encoders and decoders of Li et al. 2018, by name in core.experiment_config.

An encoder is a module that is built from a ModelConfig, the channels and the side length of the
images. Its `shapes` are those of an image (C, H, W), of the maps between its layers, and of the
code; it turns images (N, C, H, W) into maps of the last shape. Where it has `compared`, distances
are taken on so many numbers of a code, the first, and not on all. A decoder is built from the
ModelConfig and these shapes and turns such maps into images in [0, 1] again.

Shapes: N images, C channels, H x W pixels, I channels in, O channels out.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protodl.core.experiment_config import ModelConfig

Shape = tuple[int, int, int]  # channels, height, width


def layer_sizes(image_size: int, num_layers: int = 4) -> list[int]:
    """Side lengths of the maps from the image to the code, e.g. 28 -> [28, 14, 7, 4, 2].

    Raises:
        ValueError: a map of one pixel would have to be halved, which no decoder could mirror.
    """
    sizes = [image_size]
    for _ in range(num_layers):
        if sizes[-1] < 2:
            raise ValueError(
                f"image size {image_size} cannot be halved {num_layers} times and mirrored "
                f"(maps {sizes}); use images of at least {2 ** (num_layers - 1) + 1} pixels a side"
            )
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


class Encoder(nn.Module):
    """3x3 convolutions of stride 2, ReLU after each: (N, C, H, W) -> (N, last width, h, w).

    Raises:
        ValueError: the images are too small (see `layer_sizes`).
    """

    widths: tuple[int, ...]  # output channels of each convolution

    def __init__(self, config: ModelConfig, channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        widths, sizes = (channels, *self.widths), layer_sizes(image_size, len(self.widths))
        self.shapes: list[Shape] = list(zip(widths, sizes, sizes, strict=True))
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images into maps; flattened in the order (C, H, W) they are the codes."""
        maps = arranged(images, self.layers)
        for layer in self.layers:
            maps = F.relu(layer(maps), inplace=True)
        return maps


def arranged(maps: Tensor, layers: nn.Module) -> Tensor:
    """Maps (N, C, H, W) in the memory format of the kernels of layers.

    With one channel both formats look alike, and convolutions would take the slow one.
    """
    if all(kernel.is_contiguous() for kernel in layers.parameters() if kernel.ndim == 4):
        return maps
    n, c, h, w = maps.shape
    if c == 1:
        return maps.reshape(n, h * w).view(n, h, w, 1).permute(0, 3, 1, 2)
    return maps.contiguous(memory_format=torch.channels_last)


class SmallEncoder(Encoder):
    """The encoder of the paper's networks for grey images."""

    widths = (32, 32, 32, 10)


class LargeEncoder(Encoder):
    """The wider encoder that the port has for CIFAR-10."""

    widths = (256, 128, 64, 32)


Activation = Literal["relu", "sigmoid"]


def hidden_activation(config: ModelConfig, channels: int) -> Activation:
    """The activation between decoder layers; the port's depends on decoder and colour."""
    if config.decoder_activation == "port":
        return "sigmoid" if config.decoder == "upconv" and channels == 1 else "relu"
    return config.decoder_activation


def _activation(name: Activation, maps: Tensor) -> Tensor:
    return F.relu(maps, inplace=True) if name == "relu" else torch.sigmoid(maps)


def conv_then_resample(
    maps: Tensor, weight: Tensor, bias: Tensor, resample_matrix: Tensor
) -> Tensor:
    """Resample maps, then convolve them with a 3x3 kernel; computed in the opposite order.

        as defined:       I maps h x h  -resample->  I maps H x H  -9 taps->  O maps H x H
                                                                   9 H H I O products
        as computed here: I maps h x h  -9 taps->  9 O maps h x h  -R on each axis->  O maps H x H
                                        9 h h I O products

    Both steps are linear, and resampling treats all channels alike, so they commute: channels are
    mixed at the low resolution. R, the `resample_matrix`, holds the resampling, the shift of each
    tap, and the zero border.

    Args:
        maps: (N, I, h, h).
        weight: (O, I, 3, 3).
        bias: (O,).
        resample_matrix: (H, 3h), from 3h numbers, (h, tap), of a row or column to H.

    Returns:
        (N, O, H, H).
    """
    n, i, h, _ = maps.shape
    size, o = len(resample_matrix), len(weight)
    planar = o < 8  # products as wide as the channels would be too narrow: as wide as the rows then
    order = (2, 0, 3, 1) if planar else (3, 2, 0, 1)  # of the taps: (dy O dx) or (dx dy O)
    taps = weight.permute(order).reshape(9 * o, i, 1, 1)
    mixed = F.conv2d(maps, taps.contiguous(memory_format=torch.channels_last))
    mixed = mixed.permute(0, 2, 3, 1)  # N, h, w, taps
    resample_matrix, bias = resample_matrix.to(mixed.dtype), bias.to(mixed.dtype)
    if planar:
        columns = mixed.reshape(n * h, h, 3 * o, 3).transpose(1, 2)
        wide = columns.reshape(n * h * 3 * o, 3 * h) @ resample_matrix.T  # (N h dy O), W
        full = torch.matmul(resample_matrix, wide.view(n, h * 3, o * size)).view(n, size, o, size)
        return (full + bias[:, None]).permute(0, 2, 1, 3)
    wide = torch.matmul(resample_matrix, mixed.reshape(n * h, h * 3, 3 * o))  # (N h), W, (dy O)
    rows = wide.view(n, h, size, 3, o).transpose(2, 3).reshape(n, h * 3, size * o)
    full = torch.matmul(resample_matrix, rows).view(n, size, size, o)
    return (full + bias).permute(0, 3, 1, 2)


def _shifted_taps(resample_matrix: Tensor) -> Tensor:
    """Matrix (H, 3h) of a resampling (H, h), then the shifts of a 3-tap kernel, zeros outside."""
    border = torch.zeros(1, resample_matrix.shape[1], dtype=resample_matrix.dtype)
    padded = torch.cat([border, resample_matrix, border])
    shifts = [padded[shift : shift + len(resample_matrix)] for shift in range(3)]
    return torch.stack(shifts, dim=2).flatten(1).to(torch.get_default_dtype())


class TransposedConv2d(nn.ConvTranspose2d):
    """3x3 transposed convolution, stride 2, padding 1, to a fixed size.

    Where there are few output channels, PyTorch's own is several times slower than mixing first.
    """

    resample_matrix: Tensor

    def __init__(self, channels_in: int, channels_out: int, size_in: int, size_out: int) -> None:
        padding = size_out - (2 * size_in - 1)
        super().__init__(channels_in, channels_out, 3, stride=2, padding=1, output_padding=padding)
        self.mix_first = 9 * channels_out <= channels_in
        zeros = torch.zeros(size_out, size_in, dtype=torch.float64)
        zeros[2 * torch.arange(size_in), torch.arange(size_in)] = 1  # each pixel, then a gap
        self.register_buffer("resample_matrix", _shifted_taps(zeros), persistent=False)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """Spread and convolve maps (N, I, h, h) -> (N, O, H, H); the size is the layer's own."""
        return self.mixed_first(maps) if self.mix_first else self.plain(maps)

    def plain(self, maps: Tensor) -> Tensor:
        """The layer as it is defined."""
        return super().forward(maps)

    def mixed_first(self, maps: Tensor) -> Tensor:
        """The same, equal up to rounding."""
        assert self.bias is not None
        # A transposed convolution is a convolution of the spread maps with the mirrored kernel.
        kernel = self.weight.transpose(0, 1).flip(2, 3)
        return conv_then_resample(maps, kernel, self.bias, self.resample_matrix)


class ResizeConv2d(nn.Conv2d):
    """Bilinear resize (align_corners false) to a fixed size, then a 3x3 convolution, padding 1."""

    resample_matrix: Tensor

    def __init__(self, channels_in: int, channels_out: int, size_in: int, size_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.size_out = size_out
        identity = torch.eye(size_in, dtype=torch.float64)[None]
        resize = F.interpolate(identity, size=size_out, mode="linear", align_corners=False)[0].T
        self.register_buffer("resample_matrix", _shifted_taps(resize), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Resize and convolve maps (N, I, h, h) -> (N, O, H, H)."""
        return self.mixed_first(maps)

    def plain(self, maps: Tensor) -> Tensor:
        """The layer as it is defined."""
        size = (self.size_out, self.size_out)
        resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return F.conv2d(resized, self.weight, self.bias, padding=1)

    def mixed_first(self, maps: Tensor) -> Tensor:
        """The same, equal up to rounding."""
        assert self.bias is not None
        return conv_then_resample(maps, self.weight, self.bias, self.resample_matrix)


class Decoder(nn.Module):
    """A layer for each of the encoder's, in the opposite order: it enlarges what that one shrank.

    Args:
        config: names the activation between the layers; a sigmoid follows the last.
        shapes: the encoder's, from the image to the code.
    """

    layer: type[TransposedConv2d] | type[ResizeConv2d]

    def __init__(self, config: ModelConfig, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.activation = hidden_activation(config, channels=shapes[0][0])
        self.layers = nn.ModuleList(
            self.layer(i, o, small, large)
            for (i, small, _), (o, large, _) in pairwise(reversed(shapes))
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Decode maps (N, *code shape) into images (N, C, H, W) in [0, 1]."""
        for layer in self.layers[:-1]:
            maps = _activation(self.activation, layer(maps))
        return torch.sigmoid(self.layers[-1](maps))


class DeconvDecoder(Decoder):
    """Transposed 3x3 convolutions of stride 2."""

    layer = TransposedConv2d


class UpsampleDecoder(Decoder):
    """Bilinear resizes, each followed by a 3x3 convolution."""

    layer = ResizeConv2d
