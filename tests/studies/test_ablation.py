"""The ablation study: its variants, and its report, made from real networks."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from protodl.core.config import ConfigError, Params, TrainingConfig, flatten, load_params
from protodl.core.experiment_config import Experiment
from protodl.core.machine import prepare_machine
from protodl.data.datasets import DATASETS, Split, load_split, split_validation
from protodl.data.download import download
from protodl.evaluation.examiner import Examiner, means
from protodl.network.checkpoint import save_network
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork
from protodl.report.figures.page import to_array
from protodl.report.tables import NONE
from protodl.training.prototypes import build_network
from protodl.training.trainer import Trainer, fit
from studies.ablation import picture, report
from studies.ablation.measure import measure
from studies.metrics import StudyMetrics
from tests.factories import run_main, training

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "ablation"
STUDY = load_params(FOLDER / "params.yaml")
PROJECT = load_params(ROOT / "params.yaml")
BASES = {"fashion-mnist": "fashion-mnist-small-deconv", "cifar10": "cifar10-small-deconv"}
PLAIN = {
    "model.distance": "none",
    "model.project": "False",
    "model.prototype_init": "xavier",
    "model.head_init": "kaiming",
    "loss.r1": "0.0",
    "loss.r2": "0.0",
    "loss.decoded_prototype_classification": "0.0",
    "loss.recognition": "0.0",
    "loss.cycle": "0.0",
    "loss.diversity": "0.0",
}
UNTAUGHT = {"loss.classification": "40.0", "loss.distillation": "0.0"}
CHANGES: dict[str, dict[str, str]] = {
    "no-r1": {"loss.r1": "0.0"},
    "no-r2": {"loss.r2": "0.0"},
    "no-r1-r2": {"loss.r1": "0.0", "loss.r2": "0.0"},
    "no-prototype-class": {"loss.decoded_prototype_classification": "0.0"},
    "no-teacher": {**UNTAUGHT, "loss.recognition": "0.0"},
    "no-distillation": UNTAUGHT,
    "no-recognition": {"loss.recognition": "0.0"},
    "no-cycle": {"loss.cycle": "0.0"},
    "no-diversity": {"loss.diversity": "0.0"},
    "no-prototype-terms": {
        "loss.decoded_prototype_classification": "0.0",
        "loss.recognition": "0.0",
        "loss.cycle": "0.0",
        "loss.diversity": "0.0",
    },
    "projected": {"model.project": "True"},
    "not-projected": {"model.project": "False"},
    "random-prototypes": {
        "model.train_prototypes": "False",
        "model.prototype_init": "uniform",
        "model.project": "False",
    },
    "plain-layer": PLAIN,
    "plain-cnn": {**PLAIN, "loss.reconstruction": "0.0"},
    "port": {"preset": "port"},
}


# --- the variants -----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", list(BASES))
def test_a_default_is_the_row_of_the_project_but_shorter(dataset: str) -> None:
    default, base = STUDY.experiment(f"{dataset}-default"), PROJECT.experiment(BASES[dataset])
    assert default.epochs < base.epochs
    assert default == base.model_copy(update={"epochs": default.epochs})


def test_shared_settings_are_the_projects() -> None:
    assert STUDY.seeds == [0, 1]
    assert (STUDY.training, STUDY.data) == (PROJECT.training, PROJECT.data)


@pytest.mark.parametrize("row", [row for row in STUDY.experiments if "-default" not in row])
def test_a_variant_differs_in_what_its_name_says(row: str) -> None:
    experiment = STUDY.experiment(row)
    name = row.removeprefix(f"{experiment.dataset}-")
    count = re.fullmatch(r"(\d+)-prototypes", name)
    expected = {"model.num_prototypes": count[1]} if count else CHANGES[name]
    default = STUDY.experiment(f"{experiment.dataset}-default")
    assert report.differences(default, experiment) == expected
    assert experiment.epochs == default.epochs


def test_every_variant_is_there_for_each_data_set() -> None:
    counts = {"fashion-mnist": {5, 50}, "cifar10": {5, 15}}  # and the default's own
    expected = {f"{d}-{name}" for d in BASES for name in ["default", *CHANGES]}
    expected |= {f"{d}-{count}-prototypes" for d, some in counts.items() for count in some}
    assert set(STUDY.experiments) == expected


@pytest.mark.parametrize("dataset", list(BASES))
def test_the_port_is_its_preset_but_short_and_without_elastic_deformation(
    dataset: str, tmp_path: Path
) -> None:
    data = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    data["experiments"] = {"whole": {"dataset": dataset, "preset": "port"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    whole = load_params(tmp_path / "params.yaml").experiment("whole")
    default, port = (STUDY.experiment(f"{dataset}-{name}") for name in ("default", "port"))
    before, after = flatten(whole.model_dump()), flatten(port.model_dump())
    expected = {"epochs": "8", "augment.elastic_alpha": "0.0"}
    expected |= {"model.num_prototypes": "50"} if dataset == "cifar10" else {}
    assert {key: value for key, value in after.items() if value != before[key]} == expected
    assert port.model.num_prototypes == default.model.num_prototypes


def test_the_page_names_the_rows_that_the_variants_start_from() -> None:
    written = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    rows = dict.fromkeys(row["row"] for row in written["experiments"].values())
    assert tuple(rows) == report.BASES == tuple(BASES.values())


def tiny_split(experiment: Experiment, count: int) -> Split:
    size, channels = (32, 3) if experiment.dataset == "cifar10" else (28, 1)
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 10)


def trained(experiment: Experiment, folder: Path) -> tuple[PrototypeNetwork, PrototypeNetwork]:
    """A network before and after one short epoch."""
    train = tiny_split(experiment, 60)
    before = build_network(experiment, train, 0)
    short = experiment.model_copy(update={"epochs": 1, "batch_size": 20})
    runtime = prepare_machine(TrainingConfig(device="cpu", threads=1))
    network = build_network(experiment, train, 0)
    trainer = Trainer(network, train, tiny_split(experiment, 20), short, runtime, 0)
    return before, fit(trainer, folder / "training.pt", 1).network


@pytest.mark.parametrize("dataset", list(BASES))
@pytest.mark.parametrize("name", ["random-prototypes", "plain-layer", "plain-cnn", "port"])
def test_an_unusual_variant_can_be_trained(dataset: str, name: str, tmp_path: Path) -> None:
    before, after = trained(STUDY.experiment(f"{dataset}-{name}"), tmp_path)
    same = {
        key
        for key, value in before.state_dict().items()
        if (value == after.state_dict()[key]).all()
    }
    assert ("prototypes" in same) == (name == "random-prototypes")
    assert ("decoder.layers.0.weight" in same) == (name == "plain-cnn")
    assert not {"encoder.layers.0.weight", "head.weight"} & same


# --- measuring and reporting ------------------------------------------------------------------


SMALL = ("fashion-mnist-default", "fashion-mnist-5-prototypes", "fashion-mnist-plain-layer")


@pytest.fixture(name="sample", scope="module")
def _sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    """Real images of Fashion-MNIST: for training, held out."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    raw, images = folder / "raw", ROOT / "data" / "sample"
    download("fashion-mnist", folder, source="sample", raw=raw, sample=images)
    return split_validation(load_split(folder / "train.pt"), 400, 0)


@pytest.fixture(name="reported", scope="module")
def _reported(tmp_path_factory: pytest.TempPathFactory, sample: tuple[Split, Split]) -> Path:
    """The study's folder after a report on three variants, two untrained networks of each."""
    folder = tmp_path_factory.mktemp("study")
    data = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    data["base"] = str(ROOT / "params.yaml")
    data["experiments"] = {row: data["experiments"][row] for row in SMALL}
    (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    params = load_params(folder / "params.yaml")
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    judge = Judge(DATASETS["fashion-mnist"]).eval()
    examiner = Examiner(*sample, None, judge, STUDY.defaults.loss, cpu)
    for row, experiment in params.experiments.items():
        seeds = []
        for seed in STUDY.seeds:
            network = build_network(experiment, sample[0], seed).eval()
            save_network(network, folder / "models" / row / f"seed-{seed}.pt")
            training(params, row, seed).write(folder / f"rows/{row}/training/seed-{seed}.json")
            seeds.append(measure(network, examiner))
        StudyMetrics(mean=means(seeds), seeds=seeds).write(folder / "rows" / row / "metrics.json")
    assert run_report(folder) == 0
    return folder


def run_report(folder: Path) -> int:
    paths = {"params": "params.yaml", "rows": "rows", "models": "models"}
    paths |= {"markdown": "A.md", "picture": "a.png", "results": "a.json"}
    return run_main(report.main, folder, paths)


def cells(folder: Path) -> dict[str, dict[str, str]]:
    lines = [line for line in (folder / "A.md").read_text().splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(split[0], row, strict=True)) for row in split[2:]}


def test_the_table_says_what_was_measured(reported: Path) -> None:
    table = cells(reported)
    assert list(table) == [*SMALL, "± fashion-mnist"]
    records = {
        record["variant"]: record for record in json.loads((reported / "a.json").read_text())
    }
    for row in SMALL:
        accuracy = records[row]["metrics"]["validation_accuracy"]
        assert table[row]["validation accuracy (%)"] == f"{100 * accuracy:.2f}"
    purity = records["fashion-mnist-5-prototypes"]["metrics"]["purity25"]
    assert table["fashion-mnist-5-prototypes"]["purity@25 (%)"] == f"{100 * purity:.0f}"
    assert table["fashion-mnist-5-prototypes"]["coverage"] == "5"
    difference = np.subtract(
        *(records[row]["metrics"]["validation_accuracy"] for row in reversed(SMALL[:2]))
    )
    assert table["fashion-mnist-5-prototypes"]["difference"] == f"{100 * difference:+.2f}"


def test_a_layer_without_prototypes_has_dashes(reported: Path) -> None:
    plain = cells(reported)["fashion-mnist-plain-layer"]
    numbers = {name for name, cell in plain.items() if cell != NONE}
    assert numbers == {"variant", "validation accuracy (%)", "difference"}


def test_the_page_says_what_each_variant_changes(reported: Path) -> None:
    text = (reported / "A.md").read_text()
    assert "- `default`: nothing\n" in text
    assert "- `5-prototypes`: model.num_prototypes `5`\n" in text
    assert "test split was not read" in text
    assert "Means over 2 seeds." in text and report.ONE_SEED not in text
    assert "sample" not in text


def variants(**accuracies: list[float]) -> list[report.Variant]:
    """Variants of Fashion-MNIST with these accuracies of their seeds, the default first."""
    made = []
    for name, values in accuracies.items():
        row = f"fashion-mnist-{name.replace('_', '-')}"
        seeds = [{"validation_accuracy": value} for value in values]
        logs = [training(STUDY, row, seed) for seed, _ in enumerate(values)]
        made.append(report.Variant(row, STUDY.experiment(row), {}, means(seeds), seeds, logs))
    return made


def test_only_what_is_larger_than_its_uncertainty_follows() -> None:
    """Spread √2 of a point's hundredth in each of the three: 3.18 · 0.0141 / 1 = 0.045."""
    some = variants(default=[0.90, 0.92], no_r1=[0.86, 0.88], no_r2=[0.96, 0.98])
    error = report.uncertainties(some)["validation_accuracy"]
    assert error == pytest.approx(3.1824 * 0.02 / 2**0.5, rel=1e-4)
    text = "\n".join(report.verdicts(some))
    assert "validation accuracy (%), default 91.00: `no-r2` 97.00.\n" in text
    assert "| ± fashion-mnist | – | 4.50 |" in re.sub(" +", " ", report.table(some))


def test_from_one_seed_nothing_follows() -> None:
    some = variants(default=[0.90], no_r1=[0.5])
    assert not list(report.verdicts(some)) and "±" not in report.table(some)
    assert report.ONE_SEED in report.introduction(some, STUDY.model_copy(update={"seeds": [0]}))


def test_the_picture_is_small_and_shows_each_variant_with_prototypes(reported: Path) -> None:
    assert (reported / "a.png").stat().st_size < 600_000
    with Image.open(reported / "a.png") as picture:
        rows = picture.height
    assert rows < 3 * 80  # two variants, not three


def test_a_missing_result_is_named(reported: Path, tmp_path: Path, capfd: Any) -> None:
    folder = Path(shutil.copytree(reported, tmp_path / "study"))
    (folder / "rows" / "fashion-mnist-5-prototypes" / "metrics.json").unlink()
    assert run_report(folder) == 1
    assert "fashion-mnist-5-prototypes/metrics.json" in capfd.readouterr().err


def test_a_study_without_a_default_is_refused() -> None:
    rows = {"fashion-mnist-a": STUDY.experiment("fashion-mnist-no-r1")}
    params = Params(seeds=[0], experiments=rows)
    with pytest.raises(ConfigError, match="no row 'fashion-mnist-default'"):
        report.read_variants(params, Path("nowhere"))


def test_the_strongest_prototype_of_each_class_is_shown() -> None:
    experiment = STUDY.experiment("fashion-mnist-default")
    network = build_network(experiment, tiny_split(experiment, 60), 0).eval()
    with torch.no_grad():
        network.head.weight[:, :] = 0.0
        network.head.weight[3, :5] = torch.tensor([-1.0, -5.0, -2.0, -1.0, -1.0])
        network.head.weight[7, 5:] = -1.0
    shown = report.strongest(network, "a", "b")
    assert shown.classes.tolist() == [3, 7]
    decoded = network.decode_prototypes().detach()
    assert np.allclose(shown.images[0], decoded[1].numpy(), atol=1e-6)


def test_a_bar_marks_a_picture_that_the_network_takes_for_another_class() -> None:
    pictures = np.zeros((2, 1, 28, 28), np.float32)
    drawn = []
    for agrees in ([True, True], [True, False]):
        row = picture.Compared("a", "b", pictures, np.array([0, 1]), np.array(agrees))
        drawn.append(to_array(picture.comparison_figure({"MNIST": [row]}, {"MNIST": "01"})))
    reddish = [((p[..., 0] > 180) & (p[..., 2] < 80)).sum() for p in drawn]
    assert reddish[0] == 0
    assert reddish[1] > 50
