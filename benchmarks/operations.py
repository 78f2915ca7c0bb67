"""Floating-point operations of a training step, as torch counts them; product and sum are two."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from protodl.network.network import PrototypeNetwork


def step_operations(network: PrototypeNetwork, batch_size: int) -> int:
    """Operations of the convolutions and matrix products in forward and backward pass of a step.

    Everything is decoded. The network is left as it was, but for its gradients, which are gone.
    """
    before = {name: value.clone() for name, value in network.state_dict().items()}
    size = network.image_size
    images = torch.rand(batch_size, network.channels, size, size)
    with FlopCounterMode(display=False) as counter:
        output = network(images)
        assert output.reconstructions is not None
        (output.logits.sum() + output.reconstructions.sum()).backward()
    network.zero_grad()
    network.load_state_dict(before)
    return int(counter.get_total_flops())
