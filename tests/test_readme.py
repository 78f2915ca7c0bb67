"""The README says what is there: keys, flags of the original script, its example row."""

import re
from pathlib import Path

import pytest
import yaml

from protodl.core.config import Experiment, TrainingConfig, load_params
from tests.test_house import TARGETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Every option of the original script.
FLAGS = """mode data_dir nworkers bsize shuffle sigma alpha arch n_prototypes decoder_arch optim
lr wd momentum epochs max_norm start_epoch lambda_class lambda_ae lambda_1 lambda_2 save_path
log_dir log_iter resume seed""".split()


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_the_original_script_has_its_line(flag: str) -> None:
    rows = [line for line in section("Coming from the original script").splitlines() if "|" in line]
    assert any(f"`{flag}`" in line.split("|")[1] for line in rows if line.count("|") >= 3)


def test_every_key_that_the_readme_names_exists_and_none_is_missing() -> None:
    sections = {
        name: set(field.annotation.model_fields)  # type: ignore[union-attr]
        for name, field in Experiment.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    sections["training"] = set(TrainingConfig.model_fields)
    named = set(re.findall(r"`(model|loss|augment|optimizer|training)\.(\w+)", README))
    assert all(key in sections[part] for part, key in named), named
    table = section("Change an experiment")
    for part in ("model", "loss", "augment", "optimizer"):
        for key in sections[part]:
            assert re.search(rf"\b{part}\.{key}\b|`\.{key}`", table), f"{part}.{key}"
    for key in Experiment.model_fields.keys() - sections.keys():
        assert f"`{key}`" in table, key


def test_the_example_of_a_preset_is_a_valid_row(tmp_path: Path) -> None:
    (example,) = re.findall(r"^  (mnist-paper: .*)$", README, flags=re.MULTILINE)
    data = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({**data, "experiments": yaml.safe_load(example)})
    )
    row = load_params(tmp_path / "params.yaml").experiment("mnist-paper")
    assert (row.model.distance, row.epochs) == ("squared_euclidean", 1500)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert named
    assert named <= TARGETS


@pytest.mark.parametrize("page", ["README.md", "Makefile"])
def test_the_ablation_is_as_large_as_is_said(page: str) -> None:
    count = len(load_params(ROOT / "studies" / "ablation" / "params.yaml").experiments)
    assert f"{count} short trainings" in (ROOT / page).read_text(encoding="utf-8")
