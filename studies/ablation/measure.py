"""Stage measure@<variant>: validation accuracy and prototype quality, never the test split."""

import argparse

from protodl.core.config import load_params
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.evaluation.examiner import Examiner, means
from protodl.network.cases import measure_case_base
from protodl.network.checkpoint import load_network
from protodl.network.network import PrototypeNetwork
from studies.metrics import StudyMetrics


def measure(network: PrototypeNetwork, examiner: Examiner) -> dict[str, float]:
    """Accuracy and, where there are prototypes, all that the evaluate stage says of them."""
    if network.config.distance == "none":
        return {"validation_accuracy": examiner.validation_accuracy(network)}
    case_base = measure_case_base(network, examiner.train, examiner.validation)
    return examiner.measure(network, case_base).metrics


def measure_variant(options: argparse.Namespace) -> None:
    """Measure every seed of a variant; write each one's numbers and their means."""
    params = load_params(options.params)
    examiner = Examiner.load(params, options.row, options.data, options.judge)
    paths = [options.models / f"seed-{seed}.pt" for seed in params.seeds]
    seeds = [measure(load_network(path).to(examiner.device), examiner) for path in paths]
    StudyMetrics(mean=means(seeds), seeds=seeds).write(options.metrics)


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
    run_script(main)
