"""A trained network with all that its explanations need.

Shapes: N training images, C channels, H x W pixels, D code size, P prototypes, K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from protodl.core.files import CheckpointError
from protodl.data.datasets import DatasetInfo, Split
from protodl.data.pictures import Array
from protodl.explanation.types import Case
from protodl.network.cases import CaseBase, nearest_cases
from protodl.network.head import baseline, prototype_classes
from protodl.network.network import PrototypeNetwork
from protodl.network.usual import Usual

NO_DISTANCES = (
    "This row measures no distances (model.distance: none): the numbers called so here are the "
    "outputs of a linear layer, and its prototypes mean little."
)
NO_DATA = (
    "The training images that are nearest to this one are left out: they need the data, which is "
    "not here (`protodl run ROW` fetches it and trains)."
)


@dataclass(frozen=True, eq=False)
class TrainingCases:
    """The training images, and their codes in the same order."""

    codes: Tensor  # (N, D)
    train: Split
    class_names: Sequence[str]

    @torch.no_grad()
    def nearest(self, codes: Tensor, count: int) -> list[list[Case]]:
        """The nearest training cases of each code (Q, D), at most `count` of them."""
        found = nearest_cases(codes, self.codes, count)
        return [
            [
                Case(i, self.class_names[int(self.train.labels[i])], distance,
                     self.train.images[i].numpy())
                for i, distance in zip(*of_one, strict=True)
            ]
            for of_one in zip(*(part.tolist() for part in found), strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Model:
    """The network of one seed of a row, and all that its explanations need; all on the CPU."""

    row: str
    seed: int
    info: DatasetInfo
    network: PrototypeNetwork
    usual: Usual
    prototype_cases: Sequence[Case]  # P of them: the training case nearest to each prototype
    training_cases: TrainingCases | None  # None where there is no data
    origin: str = ""  # of weights that were not trained here, in words
    file: Path | None = None  # that they came in

    @classmethod
    def of_training(
        cls,
        row: str,
        seed: int,
        info: DatasetInfo,
        network: PrototypeNetwork,
        case_base: CaseBase,
        train: Split,
    ) -> Self:
        """A network with its case base, measured on the N images of `train`.

        Raises:
            CheckpointError: network, case base and training images do not belong together.
        """
        codes, prototypes = case_base.codes, network.compared(network.prototypes)
        means = case_base.usual.mean_distances
        problem = ""
        if codes.shape[1:] != prototypes.shape[1:] or len(means) != len(prototypes):
            problem = "is of another network"
        elif len(codes) != len(train):
            problem = f"holds {len(codes)} training cases, the data {len(train)}"
        if problem:
            raise CheckpointError(
                f"{row}, seed {seed}: the case base {problem}; renew it: dvc repro evaluate@{row}"
            )
        cases = TrainingCases(codes, train, info.class_names)
        nearest = [case for (case,) in cases.nearest(prototypes, 1)]
        return cls(row, seed, info, network, case_base.usual, nearest, cases)

    @cached_property
    def exact(self) -> PrototypeNetwork:
        """The network in float64, in which contributions sum to the logits to the last digit."""
        return copy.deepcopy(self.network).double()

    @cached_property
    def classes(self) -> list[int]:
        """The class that each of the P prototypes stands for."""
        return prototype_classes(self.network.head.weight).tolist()

    @cached_property
    def baseline_logits(self) -> tuple[float, ...]:
        """The K logits at the usual distances."""
        head, means = self.exact.head, self.usual.mean_distances.double()
        with torch.no_grad():
            return tuple(baseline(means, head.weight, head.bias).tolist())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known of every explanation by this network."""
        found = [] if self.network.config.distance != "none" else [NO_DISTANCES]
        if self.origin:
            found.append(self.origin)
        if self.training_cases is None:
            found.append(NO_DATA)
        return tuple(found)

    @cached_property
    def decoded(self) -> Array:
        """The prototypes as pictures (P, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return self.network.decode_prototypes().numpy()
