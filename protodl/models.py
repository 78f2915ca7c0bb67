"""The prototype network of Li et al. 2018: autoencoder, prototypes among its codes, linear head.

Shapes: N images, C channels, H x W pixels, D code size, P prototypes, K classes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protodl.config import ModelConfig

# Output channels of the four encoder convolutions.
WIDTHS: dict[str, tuple[int, int, int, int]] = {
    "small": (32, 32, 32, 10),
    "large": (256, 128, 64, 32),
}


class NetworkOutput(NamedTuple):
    """What one forward pass gives; `reconstructions` is None where the decoder did not run."""

    logits: Tensor  # (N, K)
    reconstructions: Tensor | None  # (N, C, H, W) in [0, 1]
    distances: Tensor  # (N, P)
    codes: Tensor  # (N, D)


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
    """Four 3x3 convolutions of stride 2, ReLU after each: (N, C, H, W) -> (N, width, h, w)."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise((channels, *widths))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images into maps; flattened in the order (C, H, W) they are the codes."""
        maps = images
        for layer in self.layers:
            maps = F.relu(layer(maps))
        return maps


Activation = Literal["relu", "sigmoid"]


def _hidden_activation(config: ModelConfig, channels: int) -> Activation:
    """The activation between decoder layers; the port's depends on decoder and colour."""
    if config.decoder_activation == "port":
        return "sigmoid" if config.decoder == "upconv" and channels == 1 else "relu"
    return config.decoder_activation


def _activation(name: Activation, maps: Tensor) -> Tensor:
    return F.relu(maps) if name == "relu" else torch.sigmoid(maps)


class DeconvDecoder(nn.Module):
    """Four transposed 3x3 convolutions of stride 2, sigmoid last; sizes mirror the encoder's."""

    def __init__(
        self, channels: Sequence[int], sizes: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=large - (2 * small - 1))
            for (i, o), (small, large) in zip(pairwise(channels), pairwise(sizes), strict=True)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Decode maps (N, width, h, w) into images (N, C, H, W) in [0, 1]."""
        for layer in self.layers[:-1]:
            maps = _activation(self.activation, layer(maps))
        return torch.sigmoid(self.layers[-1](maps))


class ResizeConv2d(nn.Conv2d):
    """Bilinear resize (align_corners false) to a fixed size, then a 3x3 convolution, padding 1.

    Both are linear and the resize treats all channels alike, so they commute: where the channels
    shrink enough, the nine taps are mixed at the low resolution and resized afterwards, with the
    shift and zero border of each tap folded into the resize matrix. Equal up to rounding.
    """

    resize_taps: Tensor

    def __init__(self, channels_in: int, channels_out: int, size_in: int, size_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.size_out = size_out
        self.mix_first = 9 * channels_out * size_in**2 < channels_in * size_out**2
        if self.mix_first:
            taps = _resize_taps(size_in, size_out)
            self.register_buffer("resize_taps", taps, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Resize and convolve maps: (N, I, h, w) -> (N, O, H, W)."""
        return self.mixed_first(maps) if self.mix_first else self.plain(maps)

    def plain(self, maps: Tensor) -> Tensor:
        """The layer as it is defined."""
        size = (self.size_out, self.size_out)
        resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return F.conv2d(resized, self.weight, self.bias, padding=1)

    def mixed_first(self, maps: Tensor) -> Tensor:
        """The same with channels mixed at the low resolution: 9hwIO instead of 9HWIO products."""
        n, _, h, w = maps.shape
        o, size = self.out_channels, self.size_out
        taps = self.weight.permute(1, 3, 2, 0).reshape(self.in_channels, 9 * o)  # I, (dx dy O)
        mixed = maps.permute(0, 2, 3, 1).reshape(n * h * w, self.in_channels) @ taps
        resize = self.resize_taps.to(mixed.dtype)  # out, (in tap)
        wide = torch.matmul(resize, mixed.view(n * h, w * 3, 3 * o))  # (N h), W, (dy O)
        rows = wide.view(n, h, size, 3, o).permute(0, 1, 3, 2, 4).reshape(n, h * 3, size * o)
        full = torch.matmul(resize, rows).view(n, size, size, o)
        assert self.bias is not None
        return (full + self.bias.to(full.dtype)).permute(0, 3, 1, 2)


def _resize_taps(size_in: int, size_out: int) -> Tensor:
    """Matrix (out, in * 3) of a bilinear resize followed by the three shifts of a 3-tap kernel."""
    identity = torch.eye(size_in, dtype=torch.float64)[None]
    resize = F.interpolate(identity, size=size_out, mode="linear", align_corners=False)[0].T
    border = torch.zeros(1, size_in, dtype=torch.float64)
    padded = torch.cat([border, resize, border])
    shifts = [padded[shift : shift + size_out] for shift in range(3)]
    return torch.stack(shifts, dim=2).reshape(size_out, size_in * 3).to(torch.get_default_dtype())


class UpsampleDecoder(nn.Module):
    """Four times bilinear resize and 3x3 convolution, sigmoid last; sizes mirror the encoder's."""

    def __init__(
        self, channels: Sequence[int], sizes: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(
            ResizeConv2d(i, o, small, large)
            for (i, o), (small, large) in zip(pairwise(channels), pairwise(sizes), strict=True)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Decode maps (N, width, h, w) into images (N, C, H, W) in [0, 1]."""
        for layer in self.layers[:-1]:
            maps = _activation(self.activation, layer(maps))
        return torch.sigmoid(self.layers[-1](maps))


DECODERS: dict[str, type[DeconvDecoder] | type[UpsampleDecoder]] = {
    "deconv": DeconvDecoder,
    "upconv": UpsampleDecoder,
}


class PrototypeNetwork(nn.Module):
    """Autoencoder, P prototypes in its code space, and a linear head on the distances to them.

    Li, Liu, Chen, Rudin, "Deep Learning for Case-Based Reasoning through Prototypes", AAAI 2018.

    Raises:
        ValueError: the image size cannot be mirrored, or a number is not positive.
    """

    def __init__(
        self, config: ModelConfig, channels: int, image_size: int, num_classes: int = 10
    ) -> None:
        super().__init__()
        for name, number in {"channels": channels, "num_classes": num_classes}.items():
            if number < 1:
                raise ValueError(f"{name} = {number}: must be at least 1")
        widths = WIDTHS[config.architecture]
        sizes = layer_sizes(image_size)
        self.config = config
        self.channels, self.image_size, self.num_classes = channels, image_size, num_classes
        self.code_shape = (widths[-1], sizes[-1], sizes[-1])
        self.encoder = Encoder(channels, widths)
        self.decoder = DECODERS[config.decoder](
            (*reversed(widths), channels), sizes[::-1], _hidden_activation(config, channels)
        )
        self.prototypes = nn.Parameter(
            torch.empty(config.num_prototypes, math.prod(self.code_shape))
        )
        self.head = nn.Linear(config.num_prototypes, num_classes, bias=config.head_bias)
        self._initialise_prototypes()
        self._initialise_head()

    def forward(self, images: Tensor, decode: bool = True) -> NetworkOutput:
        """Classify images (N, C, H, W) in [0, 1]; `decode=False` leaves the decoder out."""
        maps = self.encoder(images)
        reconstructions = self.decoder(maps) if decode else None
        codes = maps.flatten(1)
        distances = self.distances(codes)
        return NetworkOutput(self.classify(distances), reconstructions, distances, codes)

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, D) of images (N, C, H, W)."""
        codes: Tensor = self.encoder(images).flatten(1)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, D)."""
        images: Tensor = self.decoder(codes.unflatten(1, self.code_shape))
        return images

    def decode_prototypes(self) -> Tensor:
        """The prototypes as pictures (P, C, H, W) in [0, 1]."""
        return self.decode(self.prototypes)

    def distances(self, codes: Tensor) -> Tensor:
        """Distances (N, P) from codes (N, D) to the prototypes, squared if the variant says so."""
        # In full precision: a difference of near-equal numbers is what the explanation consists of.
        with torch.autocast(codes.device.type, enabled=False):
            codes = codes.to(self.prototypes.dtype)
            if self.config.distance == "squared_euclidean":
                return (codes[:, None] - self.prototypes).square().sum(-1)
            # Exact differences, not the |a|²+|b|²-2ab shortcut, which loses digits near zero.
            return torch.cdist(codes, self.prototypes, compute_mode="donot_use_mm_for_euclid_dist")

    def classify(self, distances: Tensor) -> Tensor:
        """Logits (N, K) from distances (N, P)."""
        with torch.autocast(distances.device.type, enabled=False):
            logits: Tensor = self.head(distances)
            return logits

    @torch.no_grad()
    def set_prototypes(self, images: Tensor) -> None:
        """Make the codes of P images (P, C, H, W) in [0, 1] the prototypes."""
        self.prototypes.copy_(self.encode(images).to(self.prototypes.dtype))

    def _initialise_prototypes(self) -> None:
        """`uniform`: U(0, 1) as in the paper; `xavier`: the port; `data`: uniform, set later."""
        if self.config.prototype_init == "xavier":
            nn.init.xavier_uniform_(self.prototypes)
        else:
            nn.init.uniform_(self.prototypes)

    def _initialise_head(self) -> None:
        """`uniform`: the paper; `kaiming`: torch's; `class`: prototype p is for class p mod K."""
        if self.config.head_init == "uniform":
            nn.init.uniform_(self.head.weight)
        elif self.config.head_init == "class":
            nn.init.zeros_(self.head.weight)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)
            own = torch.arange(self.config.num_prototypes)
            with torch.no_grad():
                self.head.weight[own % self.num_classes, own] = -1.0


class Classifier(nn.Module):
    """A trained network as it is served: images (N, C, H, W) in [0, 1] -> probabilities (N, K)."""

    def __init__(self, network: PrototypeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities (N, K)."""
        output: NetworkOutput = self.network(images, decode=False)
        return output.logits.softmax(dim=1)
