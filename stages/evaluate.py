"""Stage evaluate@<row>: the only reader of the test split; accuracy, loss, prototype quality."""

import argparse
import sys
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from protodl.core.config import LossConfig, load_params
from protodl.core.files import write_json
from protodl.core.machine import prepare_machine
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import Split, load_split, split_validation
from protodl.evaluation.accuracy import confusion_matrix, evaluate
from protodl.evaluation.quality import (
    Judgement,
    PrototypeQuality,
    measure_explanations,
    measure_judgement,
    measure_quality,
)
from protodl.explanation.gallery import choose_gallery, save_gallery
from protodl.network.cases import CaseBase, measure_case_base, save_case_base
from protodl.network.checkpoint import load_network
from protodl.network.judge import Judge, load_judge
from protodl.network.network import PrototypeNetwork


@dataclass(frozen=True)
class Measures:
    """What every seed of a row is measured with."""

    train: Split
    validation: Split
    test: Split
    judge: Judge
    loss: LossConfig
    device: torch.device

    def of(self, network: PrototypeNetwork, case_base: CaseBase) -> "Measured":
        """Measure a network: accuracy on test and validation images, quality on the others."""
        result = evaluate(network, self.test, self.loss, self.device)
        validation = evaluate(network, self.validation, self.loss, self.device, decode=False)
        quality = measure_quality(network, case_base)
        judgement = measure_judgement(network, self.judge, case_base, self.train, self.validation)
        metrics = {f"test_{name}": value for name, value in result.as_metrics().items()}
        metrics["validation_accuracy"] = validation.accuracy
        metrics |= quality.as_metrics() | judgement.as_metrics()
        metrics |= measure_explanations(network, self.validation)
        return Measured(metrics, result.predictions, quality, judgement)


class Measured(NamedTuple):
    """What was measured of one network."""

    metrics: dict[str, float]
    predictions: torch.Tensor  # (N,) of the test images
    quality: PrototypeQuality
    judgement: Judgement


def evaluate_seed(options: argparse.Namespace, log: SeedLog, measures: Measures) -> dict[str, Any]:
    """Everything measured of one seed: flat `metrics`, `confusion` (K, K) and the prototypes."""
    network = load_network(options.models / f"seed-{log.seed}.pt").to(measures.device)
    case_base = measure_case_base(network, measures.train, measures.validation)
    save_case_base(case_base, options.references / f"seed-{log.seed}.pt")
    metrics, predictions, quality, judgement = measures.of(network, case_base)
    unprojected: dict[str, float] = {}
    if network.config.project:
        path = options.models / f"seed-{log.seed}-unprojected.pt"
        before = load_network(path).to(measures.device)
        moved = not torch.equal(before.prototypes, network.prototypes)
        # Its codes are the same, so is the case_base.
        unprojected = measures.of(before, case_base).metrics if moved else dict(metrics)
    metrics["prototype_limit"] = case_base.prototype_limit
    metrics["case_limit"] = case_base.case_limit
    metrics |= {"train_seconds": log.train_seconds, "num_epochs": log.num_epochs}
    return {
        "row": log.row,
        "seed": log.seed,
        "metrics": metrics,
        "unprojected": unprojected,  # the same before prototypes were moved onto training cases
        "confusion": confusion_matrix(
            predictions, measures.test.labels, network.num_classes
        ).tolist(),
        "prototypes": {
            "class": quality.classes.tolist(),
            "dominance": _rounded(quality.dominance),
            "decoded_class": quality.decoded_classes.tolist(),
            "returned": quality.returned.tolist(),
            "purity25": _rounded(quality.purity),
            "manifold_ratio": _rounded(quality.manifold_ratio),
            "judged_class": judgement.decoded.tolist(),
            "case": judgement.cases.tolist(),
            "case_label": judgement.case_labels.tolist(),
            "case_judged_class": judgement.case_verdicts.tolist(),
        },
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def summarise(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds (0 for a single one)."""
    columns, before = (
        {name: [float(seed[kind][name]) for seed in evaluations] for name in evaluations[0][kind]}
        for kind in ("metrics", "unprojected")
    )
    return {
        "num_seeds": len(evaluations),
        "mean": {name: fmean(values) for name, values in columns.items()},
        "std": {
            name: stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()
        },
        "unprojected": {name: fmean(values) for name, values in before.items()},
    }


def evaluate_row(options: argparse.Namespace) -> None:
    """Evaluate every seed of a row and show the figures in its MLflow run."""
    params = load_params(options.params)
    settings = params.training
    everything = load_split(options.data / "train.pt")
    train, validation = split_validation(everything, settings.validation_size, settings.split_seed)
    measures = Measures(
        train=train,
        validation=validation,
        test=load_split(options.data / "test.pt"),
        judge=load_judge(options.judge),
        loss=params.experiment(options.row).loss,
        device=prepare_machine(settings).device,
    )
    logs = [SeedLog.read(options.logs / f"seed-{seed}.json") for seed in params.seeds]
    evaluations = []
    for log in logs:
        evaluations.append(evaluate_seed(options, log, measures))
        write_json(evaluations[-1], options.details / f"seed-{log.seed}.json")
    first = load_network(options.models / f"seed-{params.seeds[0]}.pt")
    save_gallery(choose_gallery(first, measures.test), options.references / "gallery.pt")
    summary = summarise(evaluations)
    write_json(summary, options.metrics)
    _track(logs, evaluations)
    print(
        f"{options.row}: test accuracy {summary['mean']['test_accuracy']:.4f}, "
        f"decode agreement {summary['mean']['decode_agreement']:.2f}, "
        f"coverage {summary['mean']['coverage']:.0f}"
    )


def _track(logs: list[SeedLog], evaluations: list[dict[str, Any]]) -> None:
    from protodl import tracking  # late: it only observes

    for log, evaluation in zip(logs, evaluations, strict=True):
        details = {
            "confusion.json": evaluation["confusion"],
            "prototypes.json": evaluation["prototypes"],
        }
        tracking.log_evaluation(log, evaluation["metrics"], details)


OPTIONS = {
    "row": "key of experiments in params.yaml",
    "--params": "params.yaml",
    "--data": "folder with train.pt and test.pt",
    "--models": "folder with seed-<s>.pt",
    "--judge": "weights of the judge",
    "--logs": "folder with seed-<s>.json",
    "--metrics": "summary to write",
    "--details": "folder for each seed's figures",
    "--references": "folder for what explanations compare with",
}
main = Stage(evaluate_row, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
