"""All that is measured of a trained network, and of the seeds of a row together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple, Self

import torch

from protodl.core.config import Params
from protodl.core.experiment_config import LossConfig
from protodl.core.machine import prepare_machine
from protodl.core.training_log import Metrics, SeedEvaluation, SeedLog
from protodl.data.datasets import Split, load_split, load_training
from protodl.evaluation.accuracy import confusion_matrix, evaluate
from protodl.evaluation.quality import (
    judged_alike,
    measure_calibration,
    measure_explanations,
    prototype_facts,
    prototype_metrics,
)
from protodl.network.cases import CaseBase
from protodl.network.judge import Judge, load_judge
from protodl.network.network import PrototypeNetwork


class Measured(NamedTuple):
    """What was measured of one network."""

    metrics: dict[str, float]
    confusion: list[list[int]]  # (K, K) of the test images; empty without them
    prototypes: dict[str, list[float]]  # facts of each of the P prototypes


@dataclass(frozen=True)
class Examiner:
    """Measures the networks of a row, all with the same images and the same judge."""

    train: Split
    validation: Split
    test: Split | None  # None: accuracy is that of the validation images alone
    judge: Judge
    loss: LossConfig
    device: torch.device

    @classmethod
    def load(
        cls, params: Params, row: str, data: Path, judge: Path, test: Path | None = None
    ) -> Self:
        """Prepare the machine and read the images of the files `data` and `test`, and the judge."""
        settings = params.training
        train, validation = load_training(data, settings)
        tested = None if test is None else load_split(test)
        weights, device = params.experiment(row).loss, prepare_machine(settings).device
        return cls(train, validation, tested, load_judge(judge), weights, device)

    def measure(self, network: PrototypeNetwork, case_base: CaseBase) -> Measured:
        """Accuracy on test and validation images, and the quality of the explanations."""
        metrics, confusion = self._test(network)
        metrics["validation_accuracy"] = self.validation_accuracy(network)
        facts = prototype_facts(network, self.judge, case_base, self.train)
        between = network.between(network.prototypes, network.prototypes).detach().cpu()
        metrics |= prototype_metrics(facts, between)
        alike = judged_alike(network, self.judge, self.validation)
        metrics["independent_reconstruction_agreement"] = alike
        metrics |= measure_explanations(network, self.validation)
        rounded = {
            name: [round(value, 6) for value in values.tolist()] for name, values in facts.items()
        }
        return Measured(metrics, confusion, rounded)

    def validation_accuracy(self, network: PrototypeNetwork) -> float:
        """Accuracy of the network as it is now: after its prototypes were projected."""
        return evaluate(network, self.validation, self.loss, self.device, decode=False).accuracy

    def _test(self, network: PrototypeNetwork) -> tuple[dict[str, float], list[list[int]]]:
        if self.test is None:
            return {}, []
        result = evaluate(network, self.test, self.loss, self.device)
        counts = confusion_matrix(result.predictions, self.test.labels, network.num_classes)
        metrics = {f"test_{name}": value for name, value in result.metrics.items()}
        metrics["calibration_error"] = measure_calibration(network, self.test)
        return metrics, counts.tolist()

    def evaluate_seed(
        self,
        log: SeedLog,
        network: PrototypeNetwork,
        case_base: CaseBase,
        before: PrototypeNetwork | None,
    ) -> SeedEvaluation:
        """Everything measured of one seed; `before`: the network before its projection."""
        metrics, confusion, prototypes = self.measure(network, case_base)
        unprojected: dict[str, float] = {}
        if before is not None:
            moved = not torch.equal(before.prototypes, network.prototypes)
            # Its codes are the same, so is the case base.
            unprojected = self.measure(before, case_base).metrics if moved else dict(metrics)
        metrics["prototype_limit"] = case_base.usual.prototype_limit
        metrics["case_limit"] = case_base.usual.case_limit
        metrics |= {"train_seconds": log.train_seconds, "num_epochs": log.num_epochs}
        return SeedEvaluation(
            row=log.row,
            seed=log.seed,
            metrics=metrics,
            unprojected=unprojected,
            confusion=confusion,
            prototypes=prototypes,
        )


# What `dvc metrics` shows and compares: few enough for a terminal's width.
SHORT = (
    "test_accuracy",
    "validation_accuracy",
    "decode_agreement",
    "independent_agreement",
    "case_agreement",
    "distinct_prototypes",
    "train_seconds",
)


def short_summary(metrics: Metrics) -> dict[str, float]:
    """The means over the seeds that stand for a row, by name."""
    return {name: round(metrics.mean[name], 6) for name in SHORT}


def means(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the seeds of all numbers, by name."""
    return {name: fmean(seed[name] for seed in seeds) for name in seeds[0]}


def summarise(evaluations: Sequence[SeedEvaluation]) -> Metrics:
    """Mean and sample standard deviation over the seeds (0 for a single one)."""
    seeds = [each.metrics for each in evaluations]
    several = len(seeds) > 1
    return Metrics(
        num_seeds=len(seeds),
        mean=means(seeds),
        std={name: stdev(s[name] for s in seeds) if several else 0.0 for name in seeds[0]},
        unprojected=means([each.unprojected for each in evaluations]),
    )
