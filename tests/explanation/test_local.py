"""Explanations: true to the network, the same for every kind of input, and as a user meets them."""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import protodl
from protodl.cli import main
from protodl.core.config import ConfigError
from protodl.core.experiment_config import ModelConfig
from protodl.core.files import CheckpointError
from protodl.data.datasets import DATASETS, Split, load_split
from protodl.data.pictures import Input
from protodl.explanation.gallery import choose_gallery
from protodl.explanation.loading import load
from protodl.explanation.local import explain, smallest_change
from protodl.explanation.model import Model, TrainingCases
from protodl.explanation.types import ChangeNeeded, Explanation
from protodl.network.cases import CaseBase, measure_case_base
from protodl.network.network import NetworkOutput, PrototypeNetwork
from protodl.report.sheets import explain_gallery
from tests.factories import ROOT, ROW


@pytest.fixture(name="test", scope="module")
def _test(project: Path) -> Split:
    return load_split(project / "data" / "mnist" / "test.pt")


def untrained(brightest: int = 255, **config: object) -> Model:
    """A colour network that was never trained, its case base measured on random images."""
    generator = torch.Generator().manual_seed(0)
    size = (60, 3, 32, 32)
    images = torch.randint(0, brightest + 1, size, dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(60) % 10)
    train, validation = split.select(torch.arange(40)), split.select(torch.arange(40, 60))
    network = PrototypeNetwork(ModelConfig(encoder_init="he", **config), 3, 32).eval()  # type: ignore[arg-type]
    network.set_prototypes(train.images[: len(network.prototypes)] / 255)
    case_base = measure_case_base(network, train, validation)
    return Model.of_training("colour", 0, DATASETS["cifar10"], network, case_base, train)


def cases_of(model: Model) -> TrainingCases:
    assert model.training_cases is not None
    return model.training_cases


def logits_of(model: Model, image: torch.Tensor) -> torch.Tensor:
    """(K,) by the network itself, all of it in float64."""
    network = copy.deepcopy(model.network).double()
    with torch.no_grad():
        output: NetworkOutput = network(image[None].double() / 255)
    return output.logits[0]


# --- true to the network ----------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_contributions_and_baseline_sum_to_the_logits(distance: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = untrained(distance=distance, head_bias=bias)
    image = cases_of(model).train.images[3]
    expected = logits_of(model, image)
    found = explain(model, image)
    for outcome, parts in (
        (found.prediction, [reason.contribution for reason in found.prototypes]),
        (found.runner_up, [reason.contribution_to_runner_up for reason in found.prototypes]),
    ):
        total = found.baseline_logits[outcome.index] + sum(parts)
        assert total == pytest.approx(outcome.logit, abs=1e-9)
        assert outcome.logit == pytest.approx(float(expected[outcome.index]), rel=1e-5, abs=1e-5)
    assert expected.topk(2).indices.tolist() == [found.prediction.index, found.runner_up.index]
    assert bool(found.remarks) == (distance == "none")


def test_a_trained_network_is_explained_to_the_last_digit(model: Model, test: Split) -> None:
    for index in range(20):
        found = explain(model, test.images[index], int(test.labels[index]))
        total = sum(reason.contribution for reason in found.prototypes)
        expected = float(logits_of(model, test.images[index]).max())
        assert found.baseline_logits[found.prediction.index] + total == pytest.approx(
            expected, abs=1e-5
        )


def test_every_prototype_stands_with_its_own_facts(model: Model, test: Split) -> None:
    found = explain(model, test.images[0])
    assert sorted(reason.index for reason in found.prototypes) == list(range(12))
    parts = [reason.contribution for reason in found.prototypes]
    assert parts == sorted(parts, reverse=True)
    weight = model.network.head.weight.detach()
    with torch.no_grad():
        output = model.network(test.images[:1] / 255)
        again = model.network.decode_prototypes().numpy()
        gaps = torch.cdist(model.network.prototypes, cases_of(model).codes).numpy()
    for reason in found.prototypes:
        p = reason.index
        assert reason.distance == pytest.approx(float(output.distances[0, p]), abs=1e-5)
        assert reason.weight == pytest.approx(float(weight[found.prediction.index, p]))
        assert reason.class_name == str(int(weight[:, p].argmin()))
        change = reason.distance - reason.usual_distance
        assert reason.contribution == pytest.approx(reason.weight * change)
        other = reason.weight_to_runner_up * change
        assert reason.contribution_to_runner_up == pytest.approx(other)
        assert reason.nearest_case.distance == pytest.approx(float(gaps[p].min()), abs=1e-3)
        assert reason.nearest_case.label == str(
            int(cases_of(model).train.labels[reason.nearest_case.index])
        )
        assert np.allclose(reason.picture, again[p])
    assert output.reconstructions is not None
    assert np.allclose(found.reconstruction, output.reconstructions[0], atol=1e-6)


def test_a_training_case_is_nearest_to_itself(model: Model) -> None:
    found = explain(model, cases_of(model).train.images[7])
    first = found.nearest_cases[0]
    assert (first.index, first.label) == (7, str(int(cases_of(model).train.labels[7])))
    assert first.distance < 1e-4
    distances = [case.distance for case in found.nearest_cases]
    assert distances == sorted(distances)
    assert (first.picture == cases_of(model).train.images[7].numpy()).all()


# --- what would have to change ----------------------------------------------------------------


def test_the_change_that_is_named_brings_the_runner_up_level(model: Model, test: Split) -> None:
    tried = 0
    for index in range(30):
        found = explain(model, test.images[index])
        change = found.change_needed.single_prototype
        gap = found.prediction.logit - found.runner_up.logit
        assert found.change_needed.logit_gap == pytest.approx(gap)
        if change is None:
            continue
        tried += 1
        with torch.no_grad():
            distances = model.exact.distances(
                model.network.encode(test.images[index : index + 1] / 255).double()
            )
            assert change.distance == pytest.approx(float(distances[0, change.index]))
            distances[0, change.index] = change.distance_needed
            logits = model.exact.classify(distances)[0]
        level = float(logits[found.runner_up.index])
        assert level == pytest.approx(float(logits[found.prediction.index]), abs=1e-9)
        assert level >= float(logits.max()) - 1e-9
        assert change.distance_needed >= 0
    assert tried > 5


def test_no_smaller_change_of_one_distance_suffices() -> None:
    """Against a search on a grid, for heads drawn at random."""
    generator = torch.Generator().manual_seed(0)
    outcomes = set()
    for _ in range(60):
        weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        distances = torch.rand(3, generator=generator, dtype=torch.float64)
        logits = weight @ distances
        first, second = logits.topk(2).indices.tolist()
        found = smallest_change(distances, logits, weight, first, second)
        needed = []
        for p in range(3):
            grid = distances.repeat(60001, 1)
            grid[:, p] = torch.linspace(0, 60, 60001, dtype=torch.float64)
            then = grid @ weight.T
            wins = (then[:, second] >= then[:, first]) & (then.argmax(dim=1) == second)
            if wins.any():
                needed.append(float((grid[wins, p] - distances[p]).abs().min()))
        outcomes.add(found is None)
        if found is None:
            assert not needed
        else:
            p, value = found
            assert not needed or min(needed) >= abs(value - float(distances[p])) - 1e-9
            assert abs(value - float(distances[p])) >= (min(needed) if needed else 60) - 2e-3
    assert outcomes == {True, False}


def test_changes_that_are_impossible_are_not_offered(model: Model, test: Split) -> None:
    distances = torch.ones(2, dtype=torch.float64)
    logits = torch.tensor([2.0, 1.0], dtype=torch.float64)
    for head, expected in (
        ([[-1.0, -1.0], [-0.9, -0.8]], (1, 6.0)),  # the smaller of two, farther away
        ([[-1.0, -1.0], [-1.0, -1.0]], None),  # no distance tells the two apart
        ([[0.5, 0.5], [0.0, 0.0]], None),  # it would have to be nearer than 0
    ):
        weight = torch.tensor(head, dtype=torch.float64)
        found = smallest_change(distances, logits, weight, 0, 1)
        assert (found and (found[0], round(found[1], 9))) == expected
    found_none = dataclasses.replace(
        explain(model, test.images[0]), change_needed=ChangeNeeded(3.25, None)
    )
    assert "3.25 behind" in str(found_none)
    assert "no change of the distance to one prototype alone" in str(found_none)


# --- far from everything ----------------------------------------------------------------------


def test_noise_is_out_of_distribution_and_usual_images_are_not() -> None:
    torch.manual_seed(0)
    model = untrained(brightest=40)
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    found = explain(model, noise)
    limits = found.out_of_distribution
    assert limits.flag
    assert limits.prototype_distance > limits.prototype_limit
    assert limits.case_distance is not None
    assert limits.case_distance > limits.case_limit
    assert str(found).startswith("image: WARNING: unlike what this network was trained on")
    usual = explain(model, noise // 6)
    assert not usual.out_of_distribution.flag
    assert "WARNING" not in str(usual)


def test_an_image_near_a_training_case_is_not_called_far(model: Model) -> None:
    far = dataclasses.replace(model.usual, prototype_limit=0.0, case_limit=0.1)
    near = explain(dataclasses.replace(model, usual=far), cases_of(model).train.images[0])
    assert not near.out_of_distribution.flag


# --- the object -------------------------------------------------------------------------------


def test_every_kind_of_input_gives_the_same_answer(
    model: Model, test: Split, tmp_path: Path
) -> None:
    image = test.images[0]
    path = tmp_path / "image.png"
    Image.fromarray(image[0].numpy()).save(path)
    expected = explain(model, image)
    opened = Image.open(path)
    given: list[Input] = [
        image.numpy(),
        image / 255,
        (image / 255).numpy(),
        opened,
        path,
        str(path),
    ]
    given.append(Image.merge("RGB", [opened] * 3))  # colour is made grey
    for each in given:
        found = explain(model, each)
        assert found == dataclasses.replace(expected, name=found.name, path=found.path)
    assert explain(model, path).path == str(path)
    assert explain(model, path).name == "image"
    assert explain(model, path, name="mine").name == "mine"


def test_json_holds_everything_but_the_pictures(model: Model, test: Split) -> None:
    found = explain(model, test.images[0], label=int(test.labels[0]))
    data = found.as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    first, second = found.prediction, found.runner_up
    assert data["caption"] == (
        f"Predicted {first}, label {found.label}; runner-up {second}. Not out of distribution."
    )
    assert list(data["prediction"]) == ["index", "class", "probability", "logit"]
    assert data["label"] == str(int(test.labels[0]))
    assert len(data["prototypes"]) == 12
    wanted = {"index", "class", "distance", "weight", "contribution", "contribution_to_runner_up"}
    assert wanted | {"nearest_case"} <= set(data["prototypes"][0])
    assert set(data["nearest_cases_of_image"][0]) == {"index", "label", "distance"}
    assert set(data["change_needed"]) == {"logit_gap", "single_prototype"}
    assert len(data["baseline_logits"]) == 10
    assert (data["schema_version"], data["path"], data["warnings"]) == (2, None, [])
    assert data["class_names"] == [*"0123456789"]


def test_it_cannot_be_changed(model: Model, test: Split) -> None:
    found = explain(model, test.images[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]


def test_the_words_name_the_largest_contributions(model: Model, test: Split) -> None:
    found = explain(model, test.images[0])
    largest = found.prototypes[0]
    assert largest.contribution > 0
    named = f"prototype {largest.index} ("
    assert named in found.because
    kind = "looks like" if largest.is_near else "is unlike"
    assert kind in found.because
    assert found.prediction.class_name in found.verdict
    assert found.runner_up.class_name in found.verdict


def test_what_does_not_belong_together_is_refused(model: Model) -> None:
    cases = cases_of(model)
    codes, train, network = cases.codes, cases.train, model.network
    fewer = dataclasses.replace(model.usual, mean_distances=torch.ones(3))
    with pytest.raises(CheckpointError, match="another network"):
        Model.of_training(ROW, 0, model.info, network, CaseBase(codes, train.labels, fewer), train)
    case_base = CaseBase(codes, train.labels, model.usual)
    some = train.select(torch.arange(5))
    with pytest.raises(CheckpointError, match="training cases"):
        Model.of_training(ROW, 0, model.info, network, case_base, some)


def test_the_package_gives_the_names_without_loading_torch() -> None:
    script = (
        "import sys, protodl; assert 'torch' not in sys.modules; "
        "assert callable(protodl.explain) and callable(protodl.load); "
        "assert protodl.Explanation and 'torch' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = protodl.nothing_such


# --- the gallery ------------------------------------------------------------------------------


def test_each_image_of_the_gallery_becomes_a_sheet_and_json(
    model: Model, test: Split, tmp_path: Path
) -> None:
    gallery = choose_gallery(model.network, test)
    explain_gallery(model, gallery, tmp_path)
    kinds = ["borderline", "correct", "wrong"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{kind}-{n}.{suffix}" for kind in kinds for n in (1, 2) for suffix in ("json", "png")
    ]
    written = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert all(written[f"correct-{n}"]["prediction"]["class"] == written[f"correct-{n}"]["label"]
               for n in (1, 2))  # fmt: skip
    assert written["correct-1"]["label"] != written["correct-2"]["label"]
    assert all(written[f"wrong-{n}"]["prediction"]["class"] != written[f"wrong-{n}"]["label"]
               for n in (1, 2))  # fmt: skip
    gaps = {name: data["change_needed"]["logit_gap"] for name, data in written.items()}
    assert gaps["borderline-1"] <= gaps["borderline-2"] <= gaps["wrong-2"] <= gaps["wrong-1"]
    for position, index in enumerate(gallery.indices.tolist()):
        assert torch.equal(gallery.cases.images[position], test.images[index])


# --- the command ------------------------------------------------------------------------------


@pytest.fixture(name="inside")
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to write to, with the project as the one that DVC works in."""
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_a_sheet_and_json_for_each_image(
    inside: Path, test: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (inside / name).mkdir()
        Image.fromarray(test.images[1, 0].numpy()).resize((90, 60)).save(inside / name / "a.png")
    Image.fromarray(255 - test.images[2, 0].numpy()).save(inside / "one" / "test-3.JPG")
    (inside / "one" / "notes.txt").write_text("not an image")
    assert main(["explain", ROW, "one", "two/a.png", "--test", "3"]) == 0
    out = capsys.readouterr().out
    folder = inside / "explanations" / ROW
    names = {"a", "a-2", "test-3", "test-3-2"}  # the last one is of the test split
    assert {path.stem for path in folder.glob("*.png")} == names
    assert {path.stem for path in folder.glob("*.json")} == names
    for name in names:
        assert f"{name}: " in out
        assert str(Path("explanations") / ROW / f"{name}.png") in out
    assert "because it " in out
    assert "Prepared as MNIST's digits" in out
    lines = (folder / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("name,path,prediction,probability")
    assert {line.partition(",")[0] for line in lines[1:]} == names
    assert json.loads((folder / "test-3.json").read_text())["label"] is None
    data = json.loads((folder / "test-3-2.json").read_text())
    assert (data["label"], data["row"], data["seed"]) == (str(int(test.labels[3])), ROW, 0)
    assert f"true class: {data['label']}" in out


def test_json_is_printed_where_it_is_asked_for(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", ROW, "--test", "5", "--json", "--output", "here"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [data["name"] for data in printed] == ["test-5"]
    assert json.loads((inside / "here" / "test-5.json").read_text()) == printed[0]


def test_a_bad_file_does_not_end_the_others(
    inside: Path, test: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "photos" / "deep").mkdir(parents=True)
    for index, suffix in enumerate(("png", "webp", "tif", "bmp")):
        digit = Image.fromarray(test.images[index, 0].numpy()).resize((80, 80))
        digit.save(inside / "photos" / "deep" / f"{index}.{suffix}")
    (inside / "photos" / "2a.png").write_text("no image")
    Image.new("L", (90, 90), 255).save(inside / "photos" / "blank.png")
    assert main(["explain", ROW, "photos", "missing.png"]) == 1
    printed = capsys.readouterr()
    folder = inside / "explanations" / ROW
    assert {path.stem for path in folder.glob("*.json")} == {"0", "1", "2", "3"}
    for words in ("2a.png: not an image", "missing.png: no such file", "blank.png: nothing stands"):
        assert words in printed.err
        assert words not in printed.out


def test_mistakes_are_reported_before_any_work(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "empty").mkdir()
    Image.linear_gradient("L").save(inside / "fine.png")
    for arguments, wanted in {
        ("tiny-rwo", "fine.png"): "did you mean 'tiny-row'",
        (ROW,): "nothing to explain",
        (ROW, "fine.png", "empty"): "empty: holds no image",
        (ROW, "fine.png", "--test", "0", "100000"): "--test 100000: the test split has images 0 to",
        (ROW, "fine.png", "--test=-1"): "--test -1",
        (ROW, "fine.png", "--seed", "7"): "has no seed 7",
        (ROW, "fine.png", "--seed", "1"): f"make it: protodl run {ROW}",
    }.items():
        assert main(["explain", *arguments]) == 1, arguments
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert wanted in printed.err
    assert not (inside / "explanations").exists()


def test_a_case_base_of_another_training_is_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "other")
    params = tmp_path / "other" / "params.yaml"
    params.write_text(params.read_text().replace("validation_size: 400", "validation_size: 300"))
    with pytest.raises(CheckpointError, match=f"renew it: dvc repro evaluate@{ROW}"):
        load(ROW, root=tmp_path / "other")
    with pytest.raises(ConfigError, match="no row"):
        load("another", root=project)
    assert isinstance(explain(load(ROW, 0, project), np.zeros((1, 28, 28))), Explanation)
