"""Whether the reasons of a network decide: what follows when they are exchanged or taken away.

Shapes: N images, C channels, H x W pixels, P prototypes, D code size, K classes.
"""

import torch
from torch import Tensor

from protodl.data.datasets import Split, batches
from protodl.network.head import baseline, contributions, prototype_classes
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork

RANDOM_ORDERS = 5


@torch.inference_mode()
def exchange(network: PrototypeNetwork, judge: Judge) -> dict[str, float]:
    """Which part of a prototype decides what its picture shows; nothing where it has but one.

    Every prototype is decoded with the appearance of every prototype of another class.
    `exchange_network`, `exchange_judge`: share of these pictures that the network, or the judge,
    puts into the class of the part that is compared; `exchange_appearance`: that the judge puts
    into the class of the appearance.

    Args:
        network: on any device.
        judge: of the same data set, on the CPU.
    """
    prototypes, classes = network.prototypes, prototype_classes(network.head.weight)
    own, appearance = network.compared(prototypes), network.appearance(prototypes)
    if not appearance.shape[1]:
        return {}
    hits: list[list[Tensor]] = [[], [], []]
    for shift in range(1, len(prototypes)):
        others = classes.roll(shift)
        codes = torch.cat([own, appearance.roll(shift, dims=0)], dim=1)[others != classes]
        if not len(codes):
            continue
        pictures = network.decode(codes)
        verdicts = judge.verdicts(pictures.cpu()).to(classes.device)
        decided = network(pictures, decode=False).logits.argmax(dim=1)
        of_code, of_appearance = classes[others != classes], others[others != classes]
        hits[0].append(decided == of_code)
        hits[1].append(verdicts == of_code)
        hits[2].append(verdicts == of_appearance)
    if not hits[0]:
        return {}
    names = ("exchange_network", "exchange_judge", "exchange_appearance")
    return {
        name: float(torch.cat(each).double().mean()) for name, each in zip(names, hits, strict=True)
    }


@torch.inference_mode()
def taken_away(network: PrototypeNetwork, validation: Split) -> dict[str, float]:
    """What becomes of predictions without the prototypes that they are explained by.

    A prototype is taken away by making its contribution 0, that is, its distance the usual one.
    """
    device = network.prototypes.device
    distances = torch.cat(
        [network(images, decode=False).distances for images, _ in batches(validation, device)]
    )
    mean, weight = distances.mean(dim=0), network.head.weight
    parts = contributions(distances, mean, weight)
    start = baseline(mean, weight, network.head.bias)
    return removal(parts, start) | curves(parts, start)


def removal(parts: Tensor, start: Tensor) -> dict[str, float]:
    """What the prototype that contributes most to an image's predicted class decides.

    `removal_share`: of the predicted class's lead over the runner-up, as far as contributions make
    it, the share that goes with it, median over the images. `removal_changes`: share of the images
    that are predicted otherwise without it.

    Args:
        parts: (N, K, P), what each prototype adds to each logit.
        start: (K,), the logits without any contribution.
    """
    each = torch.arange(len(parts), device=parts.device)
    logits = parts.sum(dim=2) + start
    first, second = logits.topk(2, dim=1).indices.T
    lead = parts[each, first] - parts[each, second]  # (N, P)
    named = parts[each, first].argmax(dim=1)
    shares = lead[each, named] / lead.sum(dim=1)
    without = logits - parts[each, :, named]
    return {
        "removal_share": float(shares.double().median()),
        "removal_changes": float((without.argmax(dim=1) != first).double().mean()),
    }


def curves(parts: Tensor, start: Tensor) -> dict[str, float]:
    """Deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421) of prototypes for pixels.

    `deletion`: the predicted class's probability, mean over the images and over 1 to P prototypes
    taken away, those that contribute most to that class first; `insertion`: the same of those that
    are left where all others are taken away. `..._random`: in `RANDOM_ORDERS` random orders.

    Args:
        parts: (N, K, P), what each prototype adds to each logit.
        start: (K,), the logits without any contribution.
    """
    total = parts.sum(dim=2) + start
    predicted = total.argmax(dim=1)
    own = parts[torch.arange(len(parts), device=parts.device), predicted]
    generator = torch.Generator().manual_seed(0)
    random = [torch.rand(own.shape, generator=generator).to(own) for _ in range(RANDOM_ORDERS)]

    def probability(keys: Tensor, inserted: bool) -> float:
        order = keys.argsort(dim=1, descending=True)
        moved = parts.gather(2, order[:, None].expand_as(parts)).cumsum(dim=2)  # (N, K, P)
        logits = start[:, None] + moved if inserted else total[..., None] - moved
        chances = logits.double().softmax(dim=1)
        return float(chances.gather(1, predicted[:, None, None].expand(-1, 1, own.shape[1])).mean())

    found = {}
    for name, inserted in (("deletion", False), ("insertion", True)):
        found[name] = probability(own, inserted)
        others = [probability(keys, inserted) for keys in random]
        found[f"{name}_random"] = sum(others) / len(others)
    return found
