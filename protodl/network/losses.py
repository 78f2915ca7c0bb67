"""The terms that training minimises (Li et al. 2018), each with its equation and its variants.

The loss is Σ_t λ_t · term_t; the weights λ are those of `loss` in params.yaml. A new term is a
function with its equation, an entry in `TERMS`, and its weight, of the same name, in `LossConfig`.

Shapes: N images, C channels, H x W pixels, D code size, P prototypes, K classes; S of the
prototypes are decoded in a step.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from protodl.core.experiment_config import Experiment, LossConfig, ReconstructionNorm
from protodl.network.head import exact_distances, prototype_classes
from protodl.network.network import NetworkOutput, PrototypeNetwork

Value = TypeVar("Value", float, Tensor)
SMALLEST_GAP = 1e-6  # between prototypes, where its logarithm is taken


class Lesson(NamedTuple):
    """What a teacher has to say of a batch."""

    logits: Tensor  # (N, K) for its images, unchanged by augmentation
    teacher: Callable[[Tensor], Tensor]  # logits (S, K) of any images (S, C, H, W)


@dataclass(frozen=True)
class LossInputs:
    """What the terms of a batch of images are computed from."""

    network: PrototypeNetwork
    output: NetworkOutput  # of the network for the images
    images: Tensor  # (N, C, H, W) in [0, 1]
    labels: Tensor  # (N,) class indices
    weights: LossConfig
    chosen: Tensor | None = None  # (S,) indices of the prototypes that are decoded, if any
    lesson: Lesson | None = None  # of the data set's teacher, if it is asked

    @cached_property
    def prototypes(self) -> Tensor:
        """The chosen prototypes (S, D)."""
        return self.network.prototypes[self.chosen]

    @cached_property
    def decoded(self) -> Tensor:
        """Their pictures (S, C, H, W), the first ones in the appearance of the one before.

        Which one that is, and whether it is of another class, is left to chance. So the part of a
        code that is compared has to decide what is to be seen in a picture.
        """
        codes = self.prototypes
        exchanged = round(self.weights.exchanged_appearance * len(codes))
        if exchanged:
            dressed = torch.cat(
                [self.network.compared(codes), self.network.appearance(codes).roll(1, dims=0)],
                dim=1,
            )
            codes = torch.cat([dressed[:exchanged], codes[exchanged:]])
        return self.network.decode(codes)

    @cached_property
    def prototype_output(self) -> NetworkOutput:
        """The network's output for its own pictures of them, network(decode(p))."""
        training = self.network.training
        self.network.eval()  # as it is read when it is shown: by itself, not among images
        output: NetworkOutput = self.network(self.decoded, decode=False)
        self.network.train(training)
        return output

    @property
    def prototype_labels(self) -> Tensor:
        """The class (S,) that each of them stands for."""
        return prototype_classes(self.network.head.weight.detach())[self.chosen]


@dataclass(frozen=True)
class Term:
    """A term of the loss, a scalar: how it is computed, and when training computes it.

    Where it is not computed, it counts as 0.
    """

    compute: Callable[[LossInputs], Tensor]
    when: Literal["always", "weighted", "prototypes decoded"] = "weighted"  # weighted: λ > 0
    # Only in a training: a teacher, where λ > 0, has to be there.
    taught: bool = False
    # An evaluation computes it once for all images of a split, not as a mean over batches.
    whole: bool = False


# In the order in which they are summed up and written down.
TERMS: dict[str, Term] = {
    "classification": Term(
        lambda x: classification(x.output.logits, x.labels, x.weights.label_smoothing), "always"
    ),
    "reconstruction": Term(
        lambda x: reconstruction(x.output.reconstructions, x.images, x.weights.reconstruction_norm)
    ),
    "r1": Term(lambda x: r1(x.output.distances), "always", whole=True),
    "r2": Term(lambda x: r2(x.output.distances), "always"),
    "decoded_prototype_classification": Term(
        lambda x: classification(x.prototype_output.logits, x.prototype_labels),
        "prototypes decoded",
        whole=True,
    ),
    "cycle": Term(
        lambda x: cycle(
            x.network.compared(x.prototype_output.codes), x.network.compared(x.prototypes)
        ),
        "prototypes decoded",
        whole=True,
    ),
    "diversity": Term(lambda x: diversity(x.network.compared(x.network.prototypes)), whole=True),
    "distillation": Term(
        lambda x: distillation(x.output.logits, _lesson(x).logits, x.weights.temperature),
        taught=True,
    ),
    "recognition": Term(
        lambda x: classification(_lesson(x).teacher(x.decoded), x.prototype_labels),
        "prototypes decoded",
        taught=True,
    ),
}


def asks_teacher(experiment: Experiment) -> bool:
    """Whether some term with a weight needs a teacher, or the choice of the first prototypes."""
    taught = [name for name, term in TERMS.items() if term.taught]
    weighted = any(getattr(experiment.loss, name) > 0 for name in taught)
    return weighted or experiment.model.prototype_init == "typical"


def decodes_prototypes(weights: LossConfig) -> bool:
    """Whether some term with a weight needs decoded prototypes."""
    needing = [name for name, term in TERMS.items() if term.when == "prototypes decoded"]
    return any(getattr(weights, name) > 0 for name in needing)


def training_terms(inputs: LossInputs) -> dict[str, Tensor]:
    """All unweighted terms of a training step; those that it does not compute are 0."""
    names = [
        name
        for name, term in TERMS.items()
        if (inputs.lesson is not None or not term.taught)
        and (
            term.when == "always"
            or (term.when == "weighted" and getattr(inputs.weights, name) > 0)
            or (term.when == "prototypes decoded" and inputs.chosen is not None)
        )
    ]
    zero = inputs.output.logits.new_zeros(())
    return dict.fromkeys(TERMS, zero) | compute_terms(inputs, names)


def compute_terms(inputs: LossInputs, names: Collection[str]) -> dict[str, Tensor]:
    """The unweighted terms of these names."""
    # Last those of decoded prototypes: gradients are added up in this order, which decides bits.
    order = sorted(names, key=lambda name: TERMS[name].when == "prototypes decoded")
    return {name: TERMS[name].compute(inputs) for name in order}


def weighted(terms: Mapping[str, Value], weights: LossConfig) -> list[Value]:
    """λ_t · term_t of each term that is there, in the order of `TERMS`."""
    return [getattr(weights, name) * terms[name] for name in TERMS if name in terms]


def classification(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """-1/N Σ_n Σ_k t_nk log softmax(logits_n)[k]: cross-entropy of logits (N, K), labels (N,).

    t_nk is 1 for the label; a smoothing ε takes ε from it and gives every class ε / K (Szegedy et
    al. 2016, section 7).

    Of decoded prototypes: whether the network, or the teacher, puts them into the class that they
    stand for.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def reconstruction(
    reconstructions: Tensor | None, images: Tensor, norm: ReconstructionNorm
) -> Tensor:
    """1/M Σ_n error(x̂_n, x_n) over the M first images of a batch, those that were decoded."""
    assert reconstructions is not None
    return reconstruction_error(reconstructions, images[: len(reconstructions)], norm).mean()


def reconstruction_error(
    reconstructions: Tensor, images: Tensor, norm: ReconstructionNorm
) -> Tensor:
    """Error (N,) of each reconstruction x̂ of an image x, both (N, C, H, W), C H W pixels i.

    `squared_l2`: ‖x̂ - x‖₂² (paper); `l2`: ‖x̂ - x‖₂ (port); `l1`: ‖x̂ - x‖₁ (port, large row);
    `cross_entropy`: -Σ_i x_i log x̂_i + (1 - x_i) log(1 - x̂_i) (Kingma, Welling 2014, appendix
    C.1), whose gradient does not vanish where a sigmoid has given up and says black.
    """
    # Logarithms need full precision, which autocast would not give.
    with torch.autocast(images.device.type, enabled=False):
        return _ERRORS[norm](reconstructions.to(images.dtype).flatten(1), images.flatten(1))


def _length(difference: Tensor) -> Tensor:
    """‖·‖₂ (N,) of each row (N, M)."""
    lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return lengths


_ERRORS: Mapping[ReconstructionNorm, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda again, image: _length(again - image),
    "squared_l2": lambda again, image: (again - image).square().sum(dim=1),
    "l1": lambda again, image: (again - image).abs().sum(dim=1),
    "cross_entropy": lambda again, image: _cross_entropy(again, image).sum(dim=1),
}


def _cross_entropy(again: Tensor, image: Tensor) -> Tensor:
    """Of each pixel; a diverging training gets to where it is told, which torch's own prevents."""
    limits = torch.finfo(again.dtype)
    sure = again.clamp(limits.tiny, 1 - limits.eps)  # within what has a logarithm
    return -(image * sure.log() + (1 - image) * (-sure).log1p())


def r1(distances: Tensor) -> Tensor:
    """R1 = 1/P Σ_p min_n d_np: how far prototypes are from their closest codes, distances (N, P).

    Small where every prototype looks like some image of the batch.
    """
    return distances.amin(dim=0).mean()


def r2(distances: Tensor) -> Tensor:
    """R2 = 1/N Σ_n min_p d_np: how far codes are from their closest prototypes, distances (N, P).

    Small where every image of the batch looks like some prototype.
    """
    return distances.amin(dim=1).mean()


def cycle(codes: Tensor, prototypes: Tensor) -> Tensor:
    """1/S Σ_p ‖encode(decode(p)) - p‖₂ of codes (S, D) and the prototypes (S, D) they come from.

    0 where the network sees in a decoded prototype the prototype itself.
    """
    difference = codes.to(prototypes.dtype) - prototypes
    return _length(difference).mean()


def diversity(prototypes: Tensor) -> Tensor:
    """-1/P Σ_p log min_q≠p ‖p - q‖₂ of prototypes (P, D): no two may mean the same.

    The entropy estimator of Kozachenko and Leonenko as a regularizer (Sablayrolles et al.,
    "Spreading vectors for similarity search", ICLR 2019). It pushes the harder the nearer two
    prototypes are, and is 0 for a single one.
    """
    if len(prototypes) < 2:
        return prototypes.new_zeros(())
    held = prototypes.detach()
    nearest = exact_distances(held, held).fill_diagonal_(torch.inf).argmin(dim=1)
    gaps = _length(prototypes - prototypes[nearest])
    return -gaps.clamp_min(SMALLEST_GAP).log().mean()


def _lesson(inputs: LossInputs) -> Lesson:
    assert inputs.lesson is not None
    return inputs.lesson


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """-T²/N Σ_n Σ_k softmax(t_n / T)_k log softmax(z_n / T)_k, logits z and a teacher's t (N, K).

    What the teacher takes an image for besides its class says more than the label does (Hinton,
    Vinyals, Dean 2015, "Distilling the knowledge in a neural network"). With T² gradients keep
    their size whatever the temperature T is.
    """
    wanted = F.softmax(taught / temperature, dim=1)
    return temperature**2 * F.cross_entropy(logits / temperature, wanted)
