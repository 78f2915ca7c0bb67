"""params.yaml: every mistake is named with file, key, value and the nearest valid choice."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from protodl.core import config
from protodl.core.config import PRESETS, ConfigError, DatasetName, Experiment, load_params
from protodl.data.datasets import DATASETS

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


def test_presets_are_the_two_published_variants_and_give_way_to_the_row() -> None:
    def build(**keys: object) -> Experiment:
        return Experiment.model_validate({"dataset": "mnist", **keys})

    paper, port = build(preset="paper"), build(preset="port")
    assert (paper.model.distance, port.model.distance) == ("squared_euclidean", "euclidean")
    assert (paper.model.head_bias, port.model.head_bias) == (False, True)
    assert (paper.model.prototype_init, port.model.prototype_init) == ("uniform", "xavier")
    norms = (paper.loss.reconstruction_norm, port.loss.reconstruction_norm)
    assert norms == ("squared_l2", "l2")
    for preset in (paper, port):
        assert preset.epochs == 1500
        assert preset.batch_size == 250
        assert (preset.augment.elastic_alpha, preset.augment.elastic_sigma) == (20, 4)
        assert (preset.optimizer.name, preset.optimizer.lr) == ("adam", 2e-3)
    changed = build(preset="port", loss={"r1": 2.0}, model={"num_prototypes": 3}, epochs=7)
    assert (changed.loss.r1, changed.loss.classification, changed.epochs) == (2, 20, 7)
    assert (changed.model.num_prototypes, changed.model.prototype_init) == (3, "xavier")
    for name in PRESETS:
        build(preset=name)


def test_a_registered_encoder_or_decoder_is_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace("dataset: mnist", "dataset: mnist, model: {architecture: a, decoder: b}")
    with pytest.raises(ConfigError, match=r"decoder = 'b': not a valid choice"):
        load(tmp_path, text)
    monkeypatch.setitem(config.ENCODERS, "a", "nowhere:A")
    monkeypatch.setitem(config.DECODERS, "b", "nowhere:B")
    model = load_params(tmp_path / "params.yaml").experiment("one").model
    assert (model.architecture, model.decoder) == ("a", "b")


def test_the_choices_of_data_sets_are_the_data_sets() -> None:
    assert get_args(DatasetName) == tuple(DATASETS)


def test_the_projects_own_params_are_valid_and_spell_out_every_key() -> None:
    """`dvc exp run -S` can only change a key that stands there."""
    params = load_params(ROOT / "params.yaml")
    assert len(params.experiments) == 7
    large = params.experiment("cifar10-large-upconv")
    assert (large.model.architecture, large.loss.reconstruction_norm) == ("large", "l1")
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    for row, experiment in params.experiments.items():
        everything = experiment.model_dump(exclude={"preset"})
        assert _keys(written["experiments"][row]) == _keys(everything), row
    assert _keys(written["training"]) == _keys(params.training.model_dump())
    assert _keys(written["judge"]) == _keys(params.judge.model_dump())


def _keys(tree: object) -> object:
    return {k: _keys(v) for k, v in tree.items()} if isinstance(tree, dict) else None


def test_configuration_is_frozen() -> None:
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.training.threads = 3
