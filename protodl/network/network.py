"""The prototype network of Li et al. 2018: autoencoder, prototypes among its codes, linear head.

Shapes: N images, C channels, H x W pixels, D numbers of a code (of both parts where it has
two), P prototypes, K classes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protodl.core.experiment_config import DECODERS, ENCODERS, ModelConfig, registered
from protodl.network import layers, residual  # noqa: F401  named there; DVC's deps follow imports
from protodl.network.head import exact_distances, prototype_classes


class NetworkOutput(NamedTuple):
    """What one forward pass gives; `reconstructions` is None where the decoder did not run."""

    logits: Tensor  # (N, K)
    reconstructions: Tensor | None  # (N, C, H, W) in [0, 1]
    distances: Tensor  # (N, P)
    codes: Tensor  # (N, D)


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
        self.config = config
        self.channels, self.image_size, self.num_classes = channels, image_size, num_classes
        self.encoder = registered(ENCODERS, config.architecture)(config, channels, image_size)
        shapes = self.encoder.shapes
        self.code_shape = shapes[-1]
        code_size = math.prod(self.code_shape)
        self._compared: int | None = getattr(self.encoder, "compared", None)
        self.decoder = registered(DECODERS, config.decoder)(config, shapes)
        self.prototypes = nn.Parameter(
            torch.empty(config.num_prototypes, code_size),
            requires_grad=config.train_prototypes is True,
        )
        plain = config.distance == "none"
        self.plain_bias = nn.Parameter(torch.zeros(config.num_prototypes)) if plain else None
        self.head = nn.Linear(config.num_prototypes, num_classes, bias=config.head_bias)
        self._initialise_prototypes()
        self._initialise_head()
        self._initialise_encoder()

    def forward(self, images: Tensor, decode: bool | int = True) -> NetworkOutput:
        """Classify images (N, C, H, W) in [0, 1].

        `decode=False` leaves the decoder out; a number decodes only so many of the first images.
        """
        maps = self.encoder(images)
        count = len(maps) if decode is True else int(decode)
        reconstructions = self.decoder(maps[:count]) if count else None
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

    def compared(self, codes: Tensor) -> Tensor:
        """Of codes, or prototypes, (N, D) the part that distances are taken on: mostly all of it.

        An encoder may add to a code what only the decoder is to know.
        """
        return codes if self._compared is None else codes[:, : self._compared]

    def appearance(self, codes: Tensor) -> Tensor:
        """Of codes, or prototypes, (N, D) the part that only the decoder reads: mostly none."""
        return codes[:, self.compared(codes).shape[1] :]

    def between(self, left: Tensor, right: Tensor) -> Tensor:
        """Euclidean distances (M, N) of codes (M, D) and (N, D), on the part that is compared."""
        return exact_distances(self.compared(left), self.compared(right))

    def distances(self, codes: Tensor) -> Tensor:
        """Distances (N, P) from codes (N, D) to the prototypes, squared if the variant says so.

        With `distance: none` there are none: a fully connected layer, the baseline of the paper.
        """
        # In full precision: a difference of near-equal numbers is what the explanation consists of.
        with torch.autocast(codes.device.type, enabled=False):
            codes = self.compared(codes).to(self.prototypes.dtype)
            prototypes = self.compared(self.prototypes)
            if self.plain_bias is not None:
                return F.relu(F.linear(codes, prototypes, self.plain_bias))
            if self.config.distance == "squared_euclidean":
                return (codes[:, None] - prototypes).square().sum(-1)
            return exact_distances(codes, prototypes)

    def classify(self, distances: Tensor) -> Tensor:
        """Logits (N, K) from distances (N, P)."""
        with torch.autocast(distances.device.type, enabled=False):
            logits: Tensor = self.head(distances)
            return logits

    @torch.no_grad()
    def project_prototypes(
        self, codes: Tensor, labels: Tensor, until_class_nearest: bool = False
    ) -> Tensor:
        """Move each prototype p to the nearest training image of its class; returns which (P,).

        p becomes c = argmin ‖c - p‖₂ over the codes c of its class: a real image can be shown for
        it. `until_class_nearest`: p becomes p + s (c - p), with the smallest s of 0, 0.05, ..., 1
        for which the code nearest to it is of its own class; most prototypes stay where they are
        then.

        Args:
            codes: (M, D) of the M training images.
            labels: (M,) their classes. A prototype of a class without images takes any class's.
            until_class_nearest: see above.
        """
        distances = self.between(self.prototypes, codes)
        classes = prototype_classes(self.head.weight)
        own = labels == classes[:, None]
        foreign = ~own & own.any(dim=1, keepdim=True)
        cases = distances.masked_fill(foreign, torch.inf).argmin(dim=1)
        start, goal = self.prototypes.clone(), codes[cases]
        if not until_class_nearest:
            self.prototypes.copy_(goal)
            return cases
        for share in torch.linspace(0, 1, 21).tolist():
            nearest = self.between(self.prototypes, codes).argmin(dim=1)
            other_class = labels[nearest] != labels[cases]
            self.prototypes[other_class] = start.lerp(goal, share)[other_class]
        return cases

    @torch.no_grad()
    def set_prototypes(self, images: Tensor) -> None:
        """Make the codes of P images (P, C, H, W) in [0, 1] the prototypes."""
        self.prototypes.copy_(self.encode(images).to(self.prototypes.dtype))

    def _initialise_prototypes(self) -> None:
        """`uniform`: U(0, 1) as in the paper; `xavier`: the port; others: uniform, set later."""
        if self.config.prototype_init == "xavier":
            nn.init.xavier_uniform_(self.prototypes)
        else:
            nn.init.uniform_(self.prototypes)

    @torch.no_grad()
    def _initialise_encoder(self) -> None:
        """`torch`: its default, which shrinks signals layer by layer; `he`: He et al. 2015.

        With the former biases decide the signs of the codes, and in every second channel of a
        narrow network the last ReLU lets nothing through, for any image, and never recovers.
        """
        if self.config.encoder_init == "torch":
            return
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

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
