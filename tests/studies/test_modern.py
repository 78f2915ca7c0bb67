"""The study of modern networks: what it measures, and what its page says of given numbers."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from protodl.core.config import load_params
from protodl.core.experiment_config import ModelConfig
from protodl.core.files import FORMAT, write_tensors
from protodl.data.datasets import DATASETS
from protodl.evaluation.measures import MEASURES
from protodl.network.judge import Judge
from protodl.network.network import NetworkOutput, PrototypeNetwork
from studies.metrics import StudyMetrics
from studies.modern import picture, report
from studies.modern.reasons import curves, exchange, removal
from tests.factories import run_main, training, write_params, write_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "modern"
STUDY = load_params(FOLDER / "params.yaml")
PROJECT = load_params(ROOT / "params.yaml")


def test_rows_are_the_tables_without_prototypes_and_decoder() -> None:
    for row, experiment in STUDY.experiments.items():
        table = PROJECT.experiment(row)
        same = {"epochs", "batch_size", "optimizer", "augment", "dataset"}
        assert experiment.model_dump(include=same) == table.model_dump(include=same)
        assert experiment.model.distance == "none" and experiment.loss.reconstruction == 0
        kept = {"architecture", "width", "code_size", "encoder_init"}
        assert experiment.model.model_dump(include=kept) == table.model.model_dump(include=kept)
        loss = experiment.loss
        assert (loss.label_smoothing, loss.classification) == (
            table.loss.label_smoothing,
            table.loss.classification,
        )
        assert loss.cycle == loss.decoded_prototype_classification == loss.r1 == loss.r2 == 0
    architectures = [PROJECT.experiment(row).model.architecture for row in STUDY.experiments]
    assert architectures.count("resnet") == len(architectures) / 2


# Two images, two classes, three prototypes: the first two decide the first image, all the second.
PARTS = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [0.5, 0.5, 1.5]]])
START = torch.zeros(2)


def test_the_named_prototype_is_taken_away() -> None:
    found = removal(PARTS, START)
    # It gives 3 of a lead of 4, and 0.5 of 1.5.
    assert found["removal_share"] == pytest.approx(1 / 3)  # the lower one of two
    assert found["removal_changes"] == 0.0
    decisive = torch.tensor([[[3.0, -1.0], [0.0, 0.0]]])
    assert removal(decisive, START) == {"removal_share": 1.5, "removal_changes": 1.0}


def test_deletion_and_insertion_follow_the_order_of_contributions() -> None:
    found = curves(PARTS, START)

    def chance(margin: float) -> float:
        return float(torch.tensor(margin, dtype=torch.float64).sigmoid())

    deleted = [chance(1), chance(0), chance(0), chance(1), chance(0.5), chance(0)]
    inserted = [chance(3), chance(4), chance(4), chance(0.5), chance(1), chance(1.5)]
    assert found["deletion"] == pytest.approx(sum(deleted) / 6)
    assert found["insertion"] == pytest.approx(sum(inserted) / 6)
    assert found["deletion"] < found["deletion_random"]
    assert found["insertion"] > found["insertion_random"]
    assert curves(PARTS, START) == found


class Painter(nn.Module):
    """A decoder that paints one number of a code, a whole class index, all over the picture."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        brightness = codes.flatten(1)[:, self.place] / 10
        return brightness[:, None, None, None].expand(-1, 1, 28, 28)


class Reader(nn.Module):
    """A classifier that reads it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = (10 * images.mean(dim=(1, 2, 3))).round().long()
        return nn.functional.one_hot(found, 10).float()


def read(images: torch.Tensor, decode: bool = True) -> NetworkOutput:
    """What a network says that reads it as well."""
    assert not decode
    return NetworkOutput(Reader()(images), None, images, images)


@pytest.mark.parametrize(("place", "expected"), [(0, (1.0, 0.0)), (6, (0.0, 1.0))])
def test_what_is_exchanged_tells_which_part_decides(
    place: int, expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(architecture="resnet", decoder="resnet", width=2, code_size=6,
                         num_prototypes=20)  # fmt: skip
    network = PrototypeNetwork(config, 1, 28).eval()
    classes = (torch.arange(20) % 10).float()
    with torch.no_grad():
        network.prototypes.zero_()
        network.prototypes[:, 0] = network.prototypes[:, 6] = classes
    network.decoder = Painter(place)
    judge = Judge(DATASETS["mnist"]).eval()
    monkeypatch.setattr(judge, "forward", Reader().forward)
    monkeypatch.setattr(network, "forward", read)
    found = exchange(network, judge)
    assert (found["exchange_judge"], found["exchange_appearance"]) == expected
    assert found["exchange_network"] == expected[0]


def test_a_code_of_one_part_has_nothing_to_exchange() -> None:
    judge = Judge(DATASETS["mnist"]).eval()
    assert exchange(PrototypeNetwork(ModelConfig(), 1, 28).eval(), judge) == {}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A table of one row, and beside it the study."""
    params = write_params(tmp_path, {"a": {"dataset": "mnist"}}, seeds=(0, 1))
    write_rows(tmp_path / "rows", params, {"a": [0.9, 0.9]})
    data = yaml.safe_load((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    data |= {"base": "params.yaml", "experiments": {"a": {"dataset": "mnist", "row": "a"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    own = tmp_path / "study" / "a"
    training(load_params(tmp_path / "study.yaml"), "a", 0).write(own / "training" / "seed-0.json")
    measured = {"validation_accuracy": 0.7, "removal_share": 0.25}
    StudyMetrics(mean=measured, seeds=[measured]).write(own / "metrics.json")
    images = torch.rand(3, 1, 28, 28)
    shown = {"classes": torch.tensor([0, 4, 9]), "prototypes": images, "cases": images}
    write_tensors({"format": FORMAT, **shown}, own / "pictures.pt")
    return tmp_path


def run_report(folder: Path) -> int:
    paths = {"params": "study.yaml", "project": "params.yaml", "study": "study", "rows": "rows"}
    paths |= {"markdown": "M.md", "picture": "m.png", "results": "m.json"}
    return run_main(report.main, folder, paths)


def test_the_page_has_every_measure(folder: Path) -> None:
    assert run_report(folder) == 0
    text = " ".join((folder / "M.md").read_text().split())
    assert "| a | 62.00 | 70.00 |" in text
    assert "test split was not read" in text and "97.0" in text
    for name in (*report.ACCURACY, *report.PICTURES, *report.REASONS):
        assert MEASURES[name].meaning in text
    (record,) = json.loads((folder / "m.json").read_text())
    assert record["plain_accuracy"] == 0.7 and record["removal_share"] == 0.25
    with Image.open(folder / "m.png") as drawn:
        assert drawn.width > 10 * picture.SIDE and drawn.height > 2 * picture.SIDE


def test_missing_pictures_are_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "study" / "a" / "pictures.pt").unlink()
    assert run_report(folder) == 1
    assert "study/a/pictures.pt: not there" in capfd.readouterr().err


def test_the_picture_shows_each_class_in_its_column() -> None:
    images = torch.rand(2, 3, 32, 32).numpy()
    shown = picture.Shown([0, 3], images, images)
    groups = {"cifar10": {"one": shown, "two": shown}}
    figure = picture.modern_figure(groups, {"cifar10": list("abcde")})
    assert len(figure.axes[0].images) == 8
    with pytest.raises(ValueError, match="no row"):
        picture.modern_figure({}, {})
