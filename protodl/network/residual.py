"""A residual encoder for small images, with codes in two parts, and the decoder that reads both.

The class part is what distances are taken on, and all that a prediction depends on; the appearance
part is for the decoder alone, whose pictures would be blurred without it.

Shapes: N images, C channels, H x W pixels, D numbers of the class part, A maps of s x s of the
appearance part, I channels in, O channels out.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protodl.core.experiment_config import ModelConfig
from protodl.network.layers import Shape, arranged, layer_sizes

HALVINGS = 3  # of the side length, by the encoder
APPEARANCE_MAPS = 32
LENGTH = 2.0  # of all class parts: their distances are at most twice it


class ResidualEncoder(nn.Module):
    """Images (N, C, H, W) -> maps (N, D + A s s, 1, 1): the class part u, then the appearance part.

    A convolution, then three stages as in ResNet-9 (Page 2018, "How to train your ResNet"), of
    w, 4w and 4w channels (w: `model.width`). u = 2 v / ‖v‖₂, where v (D: `model.code_size`) are the
    largest values of the last maps through a linear layer, each number normalised over the
    images: all class parts have one length, so that no distance depends on how sure a network is.
    The appearance part is computed from the maps of the first stage.

    Raises:
        ValueError: the images are too small (see `layer_sizes`).
    """

    def __init__(self, config: ModelConfig, channels: int, image_size: int) -> None:
        super().__init__()
        sizes, width = layer_sizes(image_size, HALVINGS), config.width
        self.compared = config.code_size  # numbers of a code that distances are taken on, the first
        appearance = (APPEARANCE_MAPS, sizes[-1], sizes[-1])
        length = self.compared + APPEARANCE_MAPS * sizes[-1] ** 2
        self.shapes: list[Shape] = [
            (channels, image_size, image_size),
            appearance,
            (length, 1, 1),
        ]
        self.stem = _conv(channels, width)
        self.stages = nn.ModuleList(
            Stage(i, o) for i, o in pairwise((width, width, 4 * width, 4 * width))
        )
        self.linear = nn.Linear(4 * width, self.compared, bias=False)
        self.norm = LoneBatchNorm(self.compared, affine=False)
        self.appearance = nn.Sequential(
            _conv(width, width, stride=2),
            _conv(width, width, stride=2),
            nn.Conv2d(width, APPEARANCE_MAPS, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images into codes, as maps of one pixel."""
        maps = first = self.stages[0](self.stem(arranged(images, self.stages)))
        for stage in self.stages[1:]:
            maps = stage(maps)
        class_part, appearance = self._class_part(maps), self.appearance(first).flatten(1)
        codes = torch.cat([class_part, appearance.to(class_part.dtype)], dim=1)
        return codes[..., None, None]

    def _class_part(self, maps: Tensor) -> Tensor:
        values = self.linear(maps.amax(dim=(2, 3)))
        # In full precision: distances are computed from them.
        with torch.autocast(values.device.type, enabled=False):
            values = self.norm(values.to(self.linear.weight.dtype))
            class_part: Tensor = LENGTH * F.normalize(values, dim=1)
            return class_part


class LoneBatchNorm(nn.BatchNorm1d):
    """Batch normalisation that a single image passes by the running statistics: it has none."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise values (N, D)."""
        if self.training and len(values) == 1:  # asked in this order an export fits any N
            return F.batch_norm(values, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(values)


class Stage(nn.Module):
    """Maps (N, I, h, h) -> (N, O, h/2, h/2): convolution, largest of 2 x 2, residual."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.residual = _conv(channels_out, channels_out)

    def forward(self, maps: Tensor) -> Tensor:
        """Pooled before they are normalised, which is a quarter of the work."""
        pooled = F.max_pool2d(self.conv(maps), 2, ceil_mode=True)
        maps = F.relu(self.norm(pooled), inplace=True)
        changed: Tensor = self.residual(maps)
        return maps + changed


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class ResidualDecoder(nn.Module):
    """Maps (N, D + A s s, 1, 1) -> images (N, C, H, W) in [0, 1], by stages that enlarge.

    Each has half as many channels as the one before, from 4w. They are normalised by each image
    alone (group normalisation with one group): a prototype is decoded in any company.

    Args:
        config: its `width` w.
        shapes: the encoder's: of an image, of the appearance part, and of the code.
    """

    def __init__(self, config: ModelConfig, shapes: Sequence[Shape]) -> None:
        super().__init__()
        (channels, image_size, _), self.appearance_shape, (length, _, _) = shapes
        maps, side, _ = self.appearance_shape
        self.compared = length - maps * side**2
        widths = [max(1, 4 * config.width // 2**stage) for stage in range(HALVINGS + 1)]
        sizes = layer_sizes(image_size, HALVINGS)[::-1]
        self.class_part = nn.Linear(self.compared, widths[0] * side**2)
        self.appearance = nn.Conv2d(maps, widths[0], 1)
        self.stages = nn.ModuleList(
            DecoderStage(i, o, size)
            for i, o, size in zip([widths[0], *widths], widths, sizes, strict=False)
        )
        self.norm = nn.GroupNorm(1, widths[-1])
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Decode codes, given as maps of one pixel."""
        class_part, appearance = codes.flatten(1).tensor_split([self.compared], dim=1)
        seen = arranged(appearance.unflatten(1, self.appearance_shape), self.stages)
        maps: Tensor = self.appearance(seen)
        maps = maps + self.class_part(class_part).unflatten(1, maps.shape[1:])
        for stage in self.stages:
            maps = stage(maps)
        return torch.sigmoid(self.last(F.relu(self.norm(maps))))


class DecoderStage(nn.Module):
    """Maps (N, I, h, h) -> (N, O, size, size): nearest enlargement, then a residual block.

    Its layers come after their activations (He et al. 2016, "Identity mappings in deep residual
    networks"), so that none can switch off what passes by them.
    """

    def __init__(self, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.direct = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(1, channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Enlarge and refine."""
        if maps.shape[-1] != self.size:
            maps = F.interpolate(maps, size=(self.size, self.size), mode="nearest")
        direct, changed = self.direct(maps), self.layers(maps)
        enlarged: Tensor = direct + changed
        return enlarged
