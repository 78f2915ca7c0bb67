"""Stage evaluate@<row>: the only reader of the test split; accuracy, loss, prototype quality."""

import argparse

from protodl.core.config import load_params
from protodl.core.files import write_json
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedEvaluation, SeedLog
from protodl.evaluation.examiner import Examiner, short_summary, summarise
from protodl.explanation.gallery import choose_gallery, save_gallery
from protodl.network.cases import measure_case_base, save_case_base
from protodl.network.checkpoint import load_network
from protodl.tracking.sync import log_evaluations


def evaluate_seed(options: argparse.Namespace, log: SeedLog, examiner: Examiner) -> SeedEvaluation:
    """Measure one seed; writes its case base and its figures."""
    stem, before = f"seed-{log.seed}", None
    network = load_network(options.models / f"{stem}.pt").to(examiner.device)
    if network.config.project:
        before = load_network(options.models / f"{stem}-unprojected.pt").to(examiner.device)
    case_base = measure_case_base(network, examiner.train, examiner.validation)
    save_case_base(case_base, options.references / f"{stem}.pt")
    evaluation = examiner.evaluate_seed(log, network, case_base, before)
    evaluation.write(options.details / f"{stem}.json")
    return evaluation


def evaluate_row(options: argparse.Namespace) -> None:
    """Evaluate every seed of a row and show the figures in its MLflow run."""
    params = load_params(options.params)
    train, test = (options.data / f"{name}.pt" for name in ("train", "test"))
    examiner = Examiner.load(params, options.row, train, options.judge, test)
    logs = [SeedLog.read(options.logs / f"seed-{seed}.json") for seed in params.seeds]
    evaluations = [evaluate_seed(options, log, examiner) for log in logs]
    first = load_network(options.models / f"seed-{params.seeds[0]}.pt")
    assert examiner.test is not None
    save_gallery(choose_gallery(first, examiner.test), options.references / "gallery.pt")
    summary = summarise(evaluations)
    summary.write(options.metrics)
    write_json(short_summary(summary), options.metrics.with_name("summary.json"))
    log_evaluations(logs, evaluations)
    print(
        f"{options.row}: test accuracy {summary.mean['test_accuracy']:.4f}, "
        f"decode agreement {summary.mean['decode_agreement']:.2f}, "
        f"coverage {summary.mean['coverage']:.0f}"
    )


OPTIONS = {
    "row": "key of experiments in params.yaml",
    "--params": "params.yaml",
    "--data": "folder with train.pt and test.pt",
    "--models": "folder with seed-<s>.pt",
    "--judge": "weights of the judge",
    "--logs": "folder with seed-<s>.json",
    "--metrics": "summary to write; what DVC shows of it becomes summary.json beside it",
    "--details": "folder for each seed's figures",
    "--references": "folder for what explanations compare with",
}
main = Stage(evaluate_row, OPTIONS)

if __name__ == "__main__":
    run_script(main)
