"""What a trial of a search is judged by, without the test split and without a judge."""

from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from protodl.core.config import TrainingConfig
from protodl.core.experiment_config import LossConfig
from protodl.core.machine import prepare_machine
from protodl.data.datasets import load_training
from protodl.evaluation.accuracy import evaluate
from protodl.network.head import prototype_classes
from protodl.network.network import PrototypeNetwork


class TrialMeasures(NamedTuple):
    """`validation_accuracy` and `decode_agreement`, as `protodl.evaluation.measures` has them."""

    accuracy: float
    decode_agreement: float  # 0 where there are no prototypes


class TrialExaminer:
    """Measures the networks of all trials with the same validation images."""

    def __init__(self, data: Path, settings: TrainingConfig) -> None:
        """Prepare the machine and read the images of the file `data`."""
        self._validation = load_training(data, settings)[1]
        self._device = prepare_machine(settings).device

    def measure(self, network: PrototypeNetwork, loss: LossConfig) -> TrialMeasures:
        """Measure a network as it is kept: after its prototypes were projected."""
        network = network.to(self._device)
        found = evaluate(network, self._validation, loss, self._device, decode=False)
        return TrialMeasures(found.accuracy, decode_agreement(network))


@torch.inference_mode()
def decode_agreement(network: PrototypeNetwork) -> float:
    """Share of the prototypes whose decoded picture the network puts into their class."""
    if network.config.distance == "none":
        return 0.0
    decoded = network(network.decode_prototypes(), decode=False).logits.argmax(dim=1)
    return fmean((decoded == prototype_classes(network.head.weight)).tolist())
