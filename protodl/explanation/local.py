"""Explain why a trained network classifies one image as it does: `load` a row, then `explain`.

Shapes: N training images, C channels, H x W pixels, D code size, P prototypes, K classes.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from protodl.core.config import ConfigError, load_params
from protodl.core.files import CheckpointError
from protodl.core.machine import project_root
from protodl.data.datasets import DatasetInfo, Split, info_of, load_training
from protodl.data.pictures import Array, Input, as_input
from protodl.explanation.types import (
    Case,
    ChangeNeeded,
    Explanation,
    Outcome,
    OutOfDistribution,
    PrototypeReason,
    SingleChange,
)
from protodl.network.cases import CaseBase, load_case_base, nearest_cases
from protodl.network.checkpoint import load_network
from protodl.network.head import baseline, contributions, prototype_classes
from protodl.network.network import PrototypeNetwork

NUM_CASES = 6  # nearest training cases of an image
ROUNDING = 1e-9  # relative, of logits in float64
NO_DISTANCES = (
    "This row measures no distances (model.distance: none): the numbers called so here are the "
    "outputs of a linear layer, and its prototypes mean little."
)


@dataclass(frozen=True, eq=False)
class Model:
    """The network of one seed of a row, its case base and its training images; all on the CPU.

    Raises:
        CheckpointError: network, case base and training images do not belong together.
    """

    row: str
    seed: int
    info: DatasetInfo
    network: PrototypeNetwork
    case_base: CaseBase
    train: Split  # the N images whose codes the case base holds, in its order

    def __post_init__(self) -> None:
        codes, means, prototypes = (
            self.case_base.codes, self.case_base.mean_distances, self.network.prototypes
        )  # fmt: skip
        if codes.shape[1:] != prototypes.shape[1:] or len(means) != len(prototypes):
            problem = "is of another network"
        elif len(codes) != len(self.train):
            problem = f"holds {len(codes)} training cases, the data {len(self.train)}"
        else:
            return
        raise CheckpointError(
            f"{self.row}, seed {self.seed}: the case base {problem}; "
            f"renew it: dvc repro evaluate@{self.row}"
        )

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
        head, means = self.exact.head, self.case_base.mean_distances.double()
        with torch.no_grad():
            return tuple(baseline(means, head.weight, head.bias).tolist())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known of every explanation by this network."""
        return () if self.network.config.distance != "none" else (NO_DISTANCES,)

    @cached_property
    def decoded(self) -> Array:
        """The prototypes as pictures (P, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return self.network.decode_prototypes().numpy()

    @cached_property
    def prototype_cases(self) -> list[Case]:
        """The nearest training case of each of the P prototypes."""
        return [case for (case,) in self.nearest(self.network.prototypes, 1)]

    @torch.no_grad()
    def nearest(self, codes: Tensor, count: int) -> list[list[Case]]:
        """The nearest training cases of each code (Q, D), at most `count` of them."""
        found = nearest_cases(codes, self.case_base.codes, count)
        return [
            [
                Case(i, self.info.class_names[self.train.labels[i]], distance,
                     self.train.images[i].numpy())
                for i, distance in zip(*of_one, strict=True)
            ]
            for of_one in zip(*(part.tolist() for part in found), strict=True)
        ]  # fmt: skip


def load(row: str, seed: int | None = None, root: Path | str | None = None) -> Model:
    """Load a trained row of params.yaml.

    Args:
        row: key of experiments.
        seed: one of params.yaml's seeds; default: the first.
        root: the project's folder; default: the one that the working directory lies in.

    Raises:
        ConfigError: params.yaml is wrong, or has no such row or seed.
        CheckpointError, DatasetError: the row is not trained and evaluated yet, or a file is bad.
        FileNotFoundError: there is no project here.
    """
    root = project_root() if root is None else Path(root)
    params = load_params(root / "params.yaml")
    dataset = params.experiment(row).dataset
    seed = params.seeds[0] if seed is None else seed
    if seed not in params.seeds:
        raise ConfigError(f"params.yaml: seeds = {params.seeds}: has no seed {seed}; add it there")
    network, case_base = (
        root / folder / row / f"seed-{seed}.pt" for folder in ("models", "models/references")
    )
    for path in (network, case_base):
        if not path.is_file():
            raise CheckpointError(f"{path}: not there; make it: dvc repro evaluate@{row}")
    train, _ = load_training(root / "data" / dataset / "train.pt", params.training)
    info = info_of(dataset, train)
    return Model(row, seed, info, load_network(network), load_case_base(case_base), train)


@torch.no_grad()
def explain(
    model: Model, image: Input, label: int | None = None, name: str | None = None
) -> Explanation:
    """Explain how the network classifies one image.

    The code is computed in float32 as in training, distances and logits from it in float64.

    Args:
        model: see `load`.
        image: of any kind that `protodl.data.pictures.as_input` converts.
        label: its true class, if known.
        name: what to call it; default: the file's name, or `image`.

    Raises:
        InputError: the image cannot be used.
    """
    pixels, notes = as_input(image, model.info)
    code = (maps := model.network.encoder(pixels[None])).flatten(1)
    distances = model.exact.distances(code.double())[0]
    logits = model.exact.classify(distances[None])[0]
    first, second = logits.topk(2).indices.tolist()
    (cases,) = model.nearest(code, NUM_CASES)
    names, shares = model.info.class_names, logits.softmax(dim=0)
    outcomes = [Outcome(k, names[k], float(shares[k]), float(logits[k])) for k in (first, second)]
    return Explanation(
        name=name or (Path(image).stem if isinstance(image, str | Path) else "image"),
        row=model.row,
        seed=model.seed,
        prediction=outcomes[0],
        runner_up=outcomes[1],
        label=None if label is None else names[label],
        baseline_logits=model.baseline_logits,
        prototypes=_reasons(model, distances, first, second),
        nearest_cases=tuple(cases),
        change_needed=_change_needed(model, distances, logits, first, second),
        out_of_distribution=_limits(model.case_base, distances, cases[0].distance),
        notes=(*notes, *model.remarks),
        image=pixels.numpy(),
        reconstruction=model.network.decoder(maps)[0].numpy(),
    )


def _reasons(
    model: Model, distances: Tensor, first: int, second: int
) -> tuple[PrototypeReason, ...]:
    """What each prototype contributes to the logits of the first and the second class."""
    means, weight = model.case_base.mean_distances.double(), model.exact.head.weight
    parts = contributions(distances[None], means, weight)[0]
    reasons = [
        PrototypeReason(
            index=p,
            class_name=model.info.class_names[model.classes[p]],
            distance=float(distances[p]),
            usual_distance=float(means[p]),
            weight=float(weight[first, p]),
            weight_to_runner_up=float(weight[second, p]),
            contribution=float(parts[first, p]),
            contribution_to_runner_up=float(parts[second, p]),
            nearest_case=model.prototype_cases[p],
            picture=model.decoded[p],
        )
        for p in range(len(distances))
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.contribution))


def _change_needed(
    model: Model, distances: Tensor, logits: Tensor, first: int, second: int
) -> ChangeNeeded:
    gap = float(logits[first] - logits[second])
    found = smallest_change(distances, logits, model.exact.head.weight, first, second)
    if found is None:
        return ChangeNeeded(gap, None)
    p, needed = found
    name = model.info.class_names[model.classes[p]]
    return ChangeNeeded(gap, SingleChange(p, name, float(distances[p]), needed))


def smallest_change(
    distances: Tensor, logits: Tensor, head_weight: Tensor, first: int, second: int
) -> tuple[int, float] | None:
    """The prototype whose distance has to change least for two classes to have equal logits.

    One distance is changed at a time; it stays at 0 or above, and no third class may end up above
    the two.

    Args:
        distances: (P,).
        logits: (K,), at these distances.
        head_weight: (K, P).
        first: the class that leads.
        second: the class that is to reach it.

    Returns:
        The prototype and the distance needed, or None where no single one suffices.
    """
    change = (logits[second] - logits[first]) / (head_weight[first] - head_weight[second])  # (P,)
    then = logits[:, None] + head_weight * change  # (K, P)
    level = then[second]
    leading = (then <= level + ROUNDING * (1 + level.abs())).all(dim=0)
    possible = change.isfinite() & (distances + change >= 0) & leading
    if not possible.any():
        return None
    p = int(change.abs().masked_fill(~possible, torch.inf).argmin())
    return p, float(distances[p] + change[p])


def _limits(case_base: CaseBase, distances: Tensor, case_distance: float) -> OutOfDistribution:
    nearest, limits = float(distances.min()), (case_base.prototype_limit, case_base.case_limit)
    beyond = nearest > limits[0] and case_distance > limits[1]
    return OutOfDistribution(beyond, nearest, limits[0], case_distance, limits[1])
