"""params.yaml: every mistake is named with file, key, value and the nearest valid choice."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from protodl.core import experiment_config
from protodl.core.config import ConfigError, Params, load_params
from protodl.core.dataset_config import PUBLISHED as PUBLISHED_SETS
from protodl.core.dataset_config import PresetName
from protodl.core.experiment_config import Recipe
from protodl.core.training_log import SeedLog
from protodl.report.results import differing_parameters

ROOT = Path(__file__).parents[2]
GOOD = """
seeds: [0, 1]
experiments:
  one: {dataset: mnist, optimizer: {lr: 6e-4}}
"""


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("lr: 6e-4", "rate: 1"), ["optimizer.rate = 1", "valid keys: name, lr"]),
        (("optimizer", "optimiser"), ["one.optimiser", "did you mean 'optimizer'?"]),
        (("mnist", "mnits"), ["one.dataset = 'mnits'", "did you mean 'mnist'?"]),
        (("mnist", "svhn"), ["one.dataset = 'svhn'", "choices: mnist, fashion-mnist, cifar10"]),
        (("lr: 6e-4", "lr: fast"), ["optimizer.lr = 'fast'", "valid number"]),
        (("lr: 6e-4", "lr: -1"), ["optimizer.lr = -1", "greater than 0"]),
        (("lr: 6e-4", "lr: .nan"), ["optimizer.lr = nan", "finite"]),
        (("dataset: mnist", "dataset: mnist, epochs: true"), ["one.epochs = True", "integer"]),
        (("dataset: mnist", "dataset: mnist, loss: {r1: -2}"), ["one.loss.r1 = -2"]),
        (
            ("dataset: mnist", "dataset: mnist, model: {decoder: decnov}"),
            ["one.model.decoder = 'decnov': not a valid choice; did you mean 'deconv'?"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, model: {architecture: [huge]}"),
            ["one.model.architecture = ['huge']: not a valid choice", "choices: small, large"],
        ),
        (("dataset: mnist, ", ""), ["one.dataset: is missing"]),
        (("dataset: mnist", "dataset: mnist, preset: papre"), ["did you mean 'paper'?"]),
        (
            ("dataset: mnist", "dataset: mnist, preset: port"),
            ["one.preset = 'port': there is no recipes.port"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, model: {project: 0}"),
            ["one.model.project = 0: not a valid choice; choices: false, true, until_class"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, model: {project: partly}"),
            ["one.model.project = 'partly': is called 'until_class_nearest' now"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, loss: {prototype_share: 0.5}"),
            ["one.loss.prototype_share = 0.5: is called 'decoded_prototype_share' now"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, model: {project: [until_class_nearest]}"),
            ["one.model.project = ['until_class_nearest']: not a valid choice"],
        ),
        (
            ("dataset: mnist", "dataset: mnist, preset: {paper: 1}"),
            ["one.preset = {'paper': 1}: not a valid choice", "choices: paper, port"],
        ),
        (("dataset: mnist", "dataset: mnist, shuffle: 1"), ["shuffle = 1", "choices: false, true"]),
        (("one:", "judges:"), ["row name 'judges'", "another name"]),
        (("one:", "references:"), ["row name 'references'", "another name"]),
        (("one:", f"{'a' * 201}:"), ["201 characters, 200 are allowed"]),
        (
            ("experiments:", "defaults: {loss: {r3: 1}}\nexperiments:"),
            ["yaml: defaults.loss.r3 = 1: unknown key; did you mean 'r2'?"],
        ),
        (
            ("experiments:", "defaults: {dataset: mnist}\nexperiments:"),
            ["yaml: defaults.dataset = 'mnist': unknown key"],
        ),
        (  # of a data set that no row has
            ("experiments:", "recipes: {cifar10: {optimizer: {lr: -1}}}\nexperiments:"),
            ["yaml: recipes.cifar10.optimizer.lr = -1: "],
        ),
        (  # a row that says it otherwise does not hide the mistake
            ("experiments:", "recipes: {mnist: {optimizer: {lr: fast}}}\nexperiments:"),
            ["yaml: recipes.mnist.optimizer.lr = 'fast': "],
        ),
        (
            ("experiments:", "recipes: {mnits: {}}\nexperiments:"),
            ["yaml: recipes.mnits: not a valid choice; did you mean 'mnist'?"],
        ),
        (
            ("experiments:", "defaults: {model: {distance: none, project: true}}\nexperiments:"),
            ["yaml: defaults.model: distance is none"],
        ),
        (  # only together they are wrong
            (
                "experiments:",
                "defaults: {model: {distance: none}}\n"
                "recipes: {mnist: {model: {project: true}}}\nexperiments:",
            ),
            ["yaml: experiments.one.model: distance is none", "say project: false"],
        ),
        (("one:", "One Row:"), ["row name 'One Row'"]),
        (("[0, 1]", "[1, 1]"), ["each seed may stand once"]),
        (("[0, 1]", "[]"), ["seeds = []"]),
        (("seeds: [0, 1]", ""), ["seeds: is missing"]),
        (("seeds", "seed"), ["seed = [0, 1]: unknown key; did you mean 'seeds'?"]),
        (("dataset: mnist", "dataset: mnist, dataset: mnist"), ["'dataset' stands twice"]),
        (("dataset: mnist", "loss: {classification: 0}, dataset: mnist"), ["classification is 0"]),
        (("}}", "}"), ["is not valid YAML", "line"]),
        (("lr: 6e-4", "? {a: 1} : 2"), ["cannot be a key", "line"]),
        (("dataset: mnist", "dataset: mnist, preset: [paper]"), ["one.preset = ['paper']"]),
        (("optimizer: {lr: 6e-4}", "loss: 3"), ["one.loss = 3", "valid keys: classification"]),
        (("one: {dataset", "epochs: {datset"), ["epochs.datset", "did you mean 'dataset'?"]),
        (("one: {dataset", "model: {datset"), ["model.datset", "did you mean 'dataset'?"]),
        (("[0, 1]", f"[{2**63}]"), [f"seeds.0 = {2**63}"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], named: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace(*change))
    message = str(error.value)
    assert "params.yaml: " in message
    assert all(part in message for part in named), message


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load(tmp_path, text)


def test_a_missing_file_and_a_missing_row_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_params(tmp_path / "nowhere.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match="no row 'onne'; did you mean 'one'"):
        load_params(path).experiment("onne")


@pytest.mark.parametrize("number", ["6e-4", "1e-05", "6.0e-4", "1E3", ".5", "3"])
def test_numbers_are_read_as_yaml_1_2_does(tmp_path: Path, number: str) -> None:
    """PyYAML takes 6e-4 for a string, and `dvc exp run -S` writes exactly that."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD.replace("6e-4", number))
    assert load_params(path).experiment("one").optimizer.lr == float(number)


LAYERS = """
seeds: [0]
defaults: {epochs: 5, loss: {r1: 2, r2: 2, cycle: 2}, optimizer: {lr: 1}}
recipes:
  mnist: {loss: {r2: 3, cycle: 3}}
  cifar10: {epochs: 9}
  paper: {loss: {cycle: 7}}
experiments:
  recipe: {dataset: mnist, loss: {cycle: 4}}
  preset: {dataset: mnist, preset: paper}
  neither: {dataset: fashion-mnist}
"""


def test_a_row_is_defaults_then_its_recipe_then_its_own(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(LAYERS)
    params = load_params(tmp_path / "params.yaml")
    rows = params.experiments.items()
    found = {name: (row.loss.r1, row.loss.r2, row.loss.cycle, row.epochs) for name, row in rows}
    assert found == {"recipe": (2, 3, 4, 5), "preset": (2, 2, 7, 5), "neither": (2, 2, 2, 5)}
    assert {row.optimizer.lr for row in params.experiments.values()} == {1}
    assert params.experiment("recipe").loss.diversity == 0  # the class's own default


# What the two published variants were before they became recipes, for a row with nothing else.
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {
        "model": {
            "architecture": "small",
            "decoder": "deconv",
            "decoder_activation": "relu",
            "width": 32,
            "code_size": 64,
            "num_prototypes": 15,
            "distance": "squared_euclidean",
            "head_bias": False,
            "encoder_init": "torch",
            "prototype_init": "uniform",
            "train_prototypes": True,
            "project": False,
            "head_init": "uniform",
        },
        "loss": {
            "classification": 20.0,
            "label_smoothing": 0.0,
            "reconstruction": 1.0,
            "r1": 1.0,
            "r2": 1.0,
            "reconstruction_norm": "squared_l2",
            "reconstruction_share": 1.0,
            "decoded_prototype_classification": 0.0,
            "cycle": 0.0,
            "diversity": 0.0,
            "distillation": 0.0,
            "recognition": 0.0,
            "temperature": 2.0,
            "decoded_prototype_start": 0.2,
            "decoded_prototype_share": 1.0,
            "exchanged_appearance": 0.0,
        },
        "augment": {"elastic_alpha": 20.0, "elastic_sigma": 4.0, "shift": 0, "flip": False},
        "optimizer": {
            "name": "adam",
            "lr": 0.002,
            "weight_decay": 0.0,
            "momentum": 0.9,
            "schedule": "constant",
            "warmup": 0.2,
            "clip_norm": 0.0,
            "averaging": 0.0,
        },
        "epochs": 1500,
        "batch_size": 250,
        "shuffle": True,
    },
}
PUBLISHED["port"] = PUBLISHED["paper"] | {
    "model": PUBLISHED["paper"]["model"]
    | {
        "decoder_activation": "port",
        "distance": "euclidean",
        "head_bias": True,
        "prototype_init": "xavier",
        "head_init": "kaiming",
    },
    "loss": PUBLISHED["paper"]["loss"] | {"reconstruction_norm": "l2"},
    "optimizer": PUBLISHED["paper"]["optimizer"] | {"weight_decay": 4e-5, "clip_norm": 1.0},
}


@pytest.mark.parametrize("dataset", PUBLISHED_SETS)
@pytest.mark.parametrize("preset", list(PUBLISHED))
def test_a_preset_is_the_published_variant_whatever_the_defaults(
    preset: str, dataset: str, tmp_path: Path
) -> None:
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = {"optimizer": {"lr": 0.5}, "model": {"num_prototypes": 3}}
    row = {"dataset": dataset, "preset": preset}
    data["experiments"] = {"bare": row, "changed": {**row, **own}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    params = load_params(tmp_path / "params.yaml")
    bare, changed = (params.experiment(name).model_dump() for name in ("bare", "changed"))
    assert bare == row | PUBLISHED[preset]
    assert changed["optimizer"] == PUBLISHED[preset]["optimizer"] | own["optimizer"]
    assert changed["model"] == PUBLISHED[preset]["model"] | own["model"]


def test_a_registered_encoder_or_decoder_is_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace("dataset: mnist", "dataset: mnist, model: {architecture: a, decoder: b}")
    with pytest.raises(ConfigError, match=r"decoder = 'b': not a valid choice"):
        load(tmp_path, text)
    monkeypatch.setitem(experiment_config.ENCODERS, "a", "nowhere:A")
    monkeypatch.setitem(experiment_config.DECODERS, "b", "nowhere:B")
    model = load_params(tmp_path / "params.yaml").experiment("one").model
    assert (model.architecture, model.decoder) == ("a", "b")


OWN = load_params(ROOT / "params.yaml")


@pytest.mark.parametrize("row", list(OWN.experiments))
def test_a_row_of_the_table_is_what_was_trained(row: str) -> None:
    logs = sorted((ROOT / "results" / "rows" / row / "training").glob("seed-*.json"))
    assert len(logs) == len(OWN.seeds)
    for log in logs:
        trained = SeedLog.read(log).parameters
        assert not list(differing_parameters(trained, OWN.experiment(row)))


def test_the_projects_own_params_are_short_and_spell_out_every_key_once() -> None:
    text = (ROOT / "params.yaml").read_text()
    assert len(text.splitlines()) <= 120
    written = yaml.safe_load(text)
    assert OWN.datasets == PUBLISHED_SETS
    assert set(written["recipes"]) == {*OWN.datasets, *get_args(PresetName)}
    assert _keys(written["defaults"]) == _keys(Recipe().model_dump())
    assert _keys(written["training"]) == _keys(OWN.training.model_dump())
    assert _keys(written["judge"]) == _keys(OWN.judge.model_dump())
    for row, keys in written["experiments"].items():  # what the README sweeps with `-S`
        assert {"epochs", "model", "optimizer"} <= keys.keys(), row
        assert {"decoder", "num_prototypes"} <= keys["model"].keys(), row
        assert "lr" in keys["optimizer"], row


def _keys(tree: object) -> object:
    return {k: _keys(v) for k, v in tree.items()} if isinstance(tree, dict) else None


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        OWN.training.threads = 3


STUDY = """
base: ../params.yaml
seeds: [7]
training: {threads: 1}
overrides: {epochs: 2, loss: {r1: 0}}
experiments:
  a: {dataset: mnist, row: recipe}
  b: {dataset: mnist, row: recipe, epochs: 3, loss: {r2: 0}}
  c: {dataset: mnist, row: recipe, preset: paper}
"""


def load_study(tmp_path: Path, text: str) -> Params:
    (tmp_path / "params.yaml").write_text(LAYERS + "training: {split_seed: 4, threads: 2}\n")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "params.yaml").write_text(text)
    return load_params(tmp_path / "study" / "params.yaml")


def test_a_study_is_read_on_top_of_the_project(tmp_path: Path) -> None:
    study = load_study(tmp_path, STUDY)
    assert study.seeds == [7]
    assert (study.training.split_seed, study.training.threads) == (4, 1)
    rows = study.experiments.items()
    found = {name: (row.loss.r1, row.loss.r2, row.loss.cycle, row.epochs) for name, row in rows}
    assert found == {"a": (0, 3, 4, 2), "b": (0, 0, 4, 3), "c": (0, 2, 4, 2)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("row: recipe}", "row: recpie}"), ["a.row = 'recpie'", "did you mean 'recipe'?"]),
        (("dataset: mnist, row: recipe}", "dataset: mnist}"), ["a.row: is missing"]),
        (("a: {dataset: mnist", "a: {dataset: cifar10"), ["a.dataset = 'cifar10'", "is mnist"]),
        (("loss: {r1: 0}", "loss: {r3: 0}"), ["overrides.loss.r3 = 0", "did you mean 'r2'?"]),
        (("seeds:", "recipes:"), ["recipes = [7]: unknown key"]),
        (("../params.yaml", "../parms.yaml"), ["parms.yaml: cannot be read"]),
        (("row: recipe}", "row: recipe, model: {project: 0}}"), ["a.model.project = 0"]),
    ],
)
def test_a_mistake_in_a_study_is_named(
    tmp_path: Path, change: tuple[str, str], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_study(tmp_path, STUDY.replace(*change))
    assert all(part in str(error.value) for part in named), str(error.value)


def test_a_mistake_in_the_base_of_a_study_names_the_base(tmp_path: Path) -> None:
    load_study(tmp_path, STUDY)
    (tmp_path / "params.yaml").write_text(LAYERS.replace("r2: 3", "r2: -3"))
    with pytest.raises(ConfigError) as error:
        load_params(tmp_path / "study" / "params.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'params.yaml'}: recipes.mnist.loss.r2 = -3")


# --- data sets --------------------------------------------------------------------------------


OWN_SETS = """
seeds: [0]
datasets:
  mnist: {torchvision: MNIST}
  letters: {torchvision: EMNIST, split: letters}
  flowers: {folder: ~/flowers, size: 32, channels: 3}
recipes: {mnist: {}, flowers: {epochs: 3}, letters: {}}
experiments:
  one: {dataset: flowers}
  two: {dataset: letters, epochs: 4}
"""


def test_a_data_set_is_what_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(OWN_SETS)
    params = load_params(tmp_path / "params.yaml")
    assert list(params.datasets) == ["mnist", "letters", "flowers"]
    assert params.datasets["mnist"] == PUBLISHED_SETS["mnist"]
    assert params.experiment("one").epochs == 3
    assert (params.dataset("flowers").size, params.dataset("flowers").test_share) == (32, 0.2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("dataset: flowers", "dataset: flowres"), ["one.dataset = 'flowres'", "'flowers'?"]),
        (("dataset: flowers", "dataset: cifar10"), ["choices: mnist, letters, flowers"]),
        ((" flowers: {epochs: 3},", ""), ["recipes.flowers: is missing; add `flowers: {}`"]),
        (("flowers: {epochs", "flowres: {epochs"), ["recipes.flowres: not a valid choice"]),
        (("torchvision: MNIST", "torchvision: MNITS"), ["mnist.torchvision = 'MNITS'", "'MNIST'?"]),
        (("size: 32", "size: 8"), ["flowers.size = 8", "greater than or equal to 9"]),
        (("channels: 3", "channels: 2"), ["flowers.channels = 2", "choices: 1, 3"]),
        ((", channels: 3", ""), ["datasets.flowers: a folder needs size", "channels (1: grey"]),
        (("channels: 3", "channels: 3, classes: [a, b]"), ["classes does not belong to folder"]),
        (("torchvision: MNIST", "torchvision: MNIST, size: 28"), ["size does not belong to torch"]),
        (("torchvision: MNIST", "torchvision: MNIST, folder: x"), ["say either torchvision"]),
        (("torchvision: MNIST", ""), ["datasets.mnist: say either torchvision"]),
        (
            ("{torchvision: MNIST}", "MNIST"),
            ["datasets.mnist = 'MNIST'", "valid keys: torchvision"],
        ),
        ((", split: letters", ""), ["datasets.letters: split", "EMNIST, which needs it"]),
        (("split: letters", "split: leters"), ["letters.split = 'leters'", "'letters'?"]),
        (("torchvision: MNIST", "torchvision: MNIST, classes: [a]"), ["at least 2"]),
        (("torchvision: MNIST", "torchvision: MNIST, classes: [a, a]"), ["a name of its own"]),
        (("channels: 3", "channels: 3, test_share: 1"), ["flowers.test_share = 1", "less than 1"]),
        (("  flowers: {folder", "  raw: {folder"), ["data set name 'raw'", "none of raw, sample"]),
        (("seeds:", "data: {source: sample}\nseeds:"), ["no images of datasets.letters"]),
    ],
)
def test_a_mistake_in_a_data_set_is_named(
    tmp_path: Path, change: tuple[str, str], named: list[str]
) -> None:
    assert change[0] in OWN_SETS
    with pytest.raises(ConfigError) as error:
        load(tmp_path, OWN_SETS.replace(*change, 1))
    message = str(error.value)
    assert f"{tmp_path / 'params.yaml'}: " in message
    assert all(part in message for part in named), message


@pytest.mark.parametrize(
    ("total", "published", "wanted"),
    [(60_000, True, 5000), (60_000, False, 5000), (300, False, 60), (4, False, 1)],
)
def test_a_small_data_set_gives_a_fifth_to_validation(
    total: int, published: bool, wanted: int
) -> None:
    assert OWN.training.num_validation(total, published) == wanted


def test_the_gpu_recipe_is_the_resnet_row_wider_and_longer(tmp_path: Path) -> None:
    pages = (ROOT / "params.yaml", ROOT / "docs/modern.md")
    text, page = (path.read_text(encoding="utf-8") for path in pages)
    (example,) = re.findall(r"^  cifar10-resnet-gpu: .*\n", page, re.MULTILINE)
    (tmp_path / "params.yaml").write_text(text + example)
    params = load_params(tmp_path / "params.yaml")
    large, row = params.experiment("cifar10-resnet-gpu"), params.experiment("cifar10-resnet")
    assert large.model.width > row.model.width and large.epochs > row.epochs
    narrow = {**large.model.model_dump(), "width": row.model.width}
    assert (narrow, large.loss) == (row.model.model_dump(), row.loss)
