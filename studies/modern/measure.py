"""Stage measure@<row>: a plain classifier's accuracy, and what a row of the table's reasons decide.

The test split is not read.
"""

import argparse

import torch

from protodl.core.config import load_params
from protodl.core.files import FORMAT, write_tensors
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.data.datasets import Split, to_unit_interval
from protodl.evaluation.examiner import Examiner, means
from protodl.evaluation.quality import prototype_facts
from protodl.network.cases import measure_case_base
from protodl.network.checkpoint import load_network
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork
from studies.metrics import StudyMetrics
from studies.modern.reasons import exchange, taken_away


def measure(network: PrototypeNetwork, examiner: Examiner) -> dict[str, float]:
    """What the reasons of a network of the table are worth."""
    return {
        **exchange(network, examiner.judge),
        **taken_away(network, examiner.validation),
    }


@torch.inference_mode()
def pictures(
    network: PrototypeNetwork, judge: Judge, train: Split, validation: Split
) -> dict[str, torch.Tensor]:
    """One prototype of each class, the one that speaks most for it: decoded, beside its case.

    Classes (n,), pictures and training images (n, C, H, W) in [0, 1].
    """
    case_base = measure_case_base(network, train, validation)
    facts = prototype_facts(network, judge, case_base, train)
    classes = facts["class"]
    strength = network.head.weight.cpu()[classes, torch.arange(len(classes))]
    chosen = torch.stack(
        [
            torch.where(classes == each, strength, torch.inf).argmin()
            for each in classes.unique(sorted=True)
        ]
    )
    return {
        "classes": classes[chosen],
        "prototypes": network.decode_prototypes().cpu()[chosen],
        "cases": to_unit_interval(train.images[facts["case"][chosen]]),
    }


def measure_row(options: argparse.Namespace) -> None:
    """Measure every seed; write each one's numbers, their means, and pictures of the first."""
    params = load_params(options.params)
    examiner = Examiner.load(params, options.row, options.data, options.judge)
    seeds = []
    for seed in params.seeds:
        plain = load_network(options.models / f"seed-{seed}.pt").to(examiner.device)
        ours = load_network(options.table / f"seed-{seed}.pt").to(examiner.device)
        accuracy = {"validation_accuracy": examiner.validation_accuracy(plain)}
        seeds.append(accuracy | measure(ours, examiner))
        if seed == params.seeds[0]:
            shown = pictures(ours, examiner.judge, examiner.train, examiner.validation)
            write_tensors({"format": FORMAT, **shown}, options.pictures)
    StudyMetrics(mean=means(seeds), seeds=seeds).write(options.metrics)


OPTIONS = {
    "row": "key of experiments in the study's params.yaml",
    "--params": "the study's params.yaml",
    "--data": "train.pt of the data set",
    "--judge": "the data set's judge",
    "--models": "folder with seed-<s>.pt of the plain classifier",
    "--table": "folder with seed-<s>.pt of the table's row",
    "--metrics": "JSON to write",
    "--pictures": "file to write one prototype of each class to",
}
main = Stage(measure_row, OPTIONS)

if __name__ == "__main__":
    run_script(main)
