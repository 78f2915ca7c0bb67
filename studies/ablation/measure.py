"""Stage measure@<variant>: validation accuracy and prototype quality, never the test split."""

import argparse
import sys
from statistics import fmean

import torch

from protodl.core.config import LossConfig, load_params
from protodl.core.files import write_json
from protodl.core.machine import prepare_machine
from protodl.core.stage import Stage
from protodl.data.datasets import Split, load_split, split_validation
from protodl.evaluation.accuracy import evaluate
from protodl.evaluation.quality import measure_explanations, measure_judgement, measure_quality
from protodl.network.cases import measure_case_base
from protodl.network.checkpoint import load_network
from protodl.network.judge import Judge, load_judge
from protodl.network.network import PrototypeNetwork


@torch.inference_mode()
def measure(
    network: PrototypeNetwork, weights: LossConfig, train: Split, validation: Split, judge: Judge
) -> dict[str, float]:
    """Accuracy and, where there are prototypes, all that the evaluate stage says of them.

    The accuracy is that of the network as it is now: after its prototypes were projected.
    """
    device = network.prototypes.device
    result = evaluate(network, validation, weights, device, decode=False)
    metrics = {"validation_accuracy": result.accuracy}
    if network.config.distance == "none":
        return metrics
    case_base = measure_case_base(network, train, validation)
    metrics |= measure_quality(network, case_base).as_metrics()
    metrics |= measure_judgement(network, judge, case_base, train, validation).as_metrics()
    return metrics | measure_explanations(network, validation)


def measure_variant(options: argparse.Namespace) -> None:
    """Measure every seed of a variant; write the means."""
    params = load_params(options.params)
    settings, weights = params.training, params.experiment(options.row).loss
    split = load_split(options.data)
    train, validation = split_validation(split, settings.validation_size, settings.split_seed)
    judge, device = load_judge(options.judge), prepare_machine(settings).device
    seeds = []
    for seed in params.seeds:
        network = load_network(options.models / f"seed-{seed}.pt").to(device)
        seeds.append(measure(network, weights, train, validation, judge))
    mean = {name: fmean(metrics[name] for metrics in seeds) for name in seeds[0]}
    write_json({"mean": mean}, options.metrics)


OPTIONS = {
    "row": "key of experiments in the study's params.yaml",
    "--params": "the study's params.yaml",
    "--data": "train.pt of the data set",
    "--judge": "the data set's judge",
    "--models": "folder with seed-<s>.pt",
    "--metrics": "JSON to write",
}
main = Stage(measure_variant, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
