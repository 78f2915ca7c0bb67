"""README and docs/ say what is there: keys, flags of the original script, the example row."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from protodl.core.config import TrainingConfig, load_params
from protodl.core.dataset_config import DatasetConfig, TorchvisionName
from protodl.core.experiment_config import Experiment
from tests.test_house import TARGETS

ROOT = Path(__file__).parents[1]
README, PARAMETERS, ORIGINAL_SCRIPT = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/parameters.md", "docs/original-script.md")
)
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
# Every option of the original script.
FLAGS = """mode data_dir nworkers bsize shuffle sigma alpha arch n_prototypes decoder_arch optim
lr wd momentum epochs max_norm start_epoch lambda_class lambda_ae lambda_1 lambda_2 save_path
log_dir log_iter resume seed""".split()


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_the_original_script_has_its_line(flag: str) -> None:
    rows = [line.split("|") for line in ORIGINAL_SCRIPT.splitlines() if line.count("|") >= 3]
    assert any(f"`{flag}`" in cells[1] for cells in rows)


def test_every_key_that_a_page_names_exists_and_none_is_missing() -> None:
    sections = {
        name: set(field.annotation.model_fields)  # type: ignore[union-attr]
        for name, field in Experiment.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        named = re.findall(r"`(model|loss|augment|optimizer|training)\.(\w+)`", text)
        keys = {**sections, "training": set(TrainingConfig.model_fields)}
        assert all(key in keys[part] for part, key in named), (page, named)
    for part, keys_of_part in sections.items():
        assert all(f"`{part}.{key}`" in PARAMETERS for key in keys_of_part), part
    assert all(f"`{key}`" in PARAMETERS for key in Experiment.model_fields.keys() - sections.keys())


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_the_example_of_a_preset_is_a_valid_row(tmp_path: Path) -> None:
    (example,) = re.findall(r"^  (mnist-paper: .*)$", README, flags=re.MULTILINE)
    data = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({**data, "experiments": yaml.safe_load(example)})
    )
    row = load_params(tmp_path / "params.yaml").experiment("mnist-paper")
    assert (row.model.distance, row.epochs) == ("squared_euclidean", 1500)


def test_the_example_of_own_images_is_all_that_is_needed(tmp_path: Path) -> None:
    data = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (row,) = re.findall(r"^  (my-flowers: .*)$", README, flags=re.MULTILINE)
    for section in ("datasets", "recipes"):
        (entry,) = re.findall(rf"`(flowers: {{[^`]*}})`[^`]*\s`{section}`", README)
        data[section] |= yaml.safe_load(entry)
    text = yaml.safe_dump({**data, "experiments": yaml.safe_load(row)})
    (tmp_path / "params.yaml").write_text(text)
    params = load_params(tmp_path / "params.yaml")
    assert params.dataset(params.experiment("my-flowers").dataset).folder == "~/flowers"


def test_every_key_of_a_data_set_has_its_line() -> None:
    described = PARAMETERS.partition("## Data sets")[2].partition("\n## ")[0]
    keys = [line.split("|")[1].strip(" `") for line in described.splitlines() if "| `" in line]
    assert [key for key in keys if key] == list(DatasetConfig.model_fields)
    (choices,) = re.findall(r"\| `torchvision` \| ([^|]+) \|", described)
    assert choices == ", ".join(f"`{name}`" for name in get_args(TorchvisionName))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert named <= TARGETS
    assert named or page.startswith("docs/")
