"""dvc.yaml beside the code: a stage's deps are its imports, and who reads the test split."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from protodl.core.config import load_params
from protodl.core.sources import closure, pipelines, with_sources
from protodl.pipeline.run import every_stage

ROOT = Path(__file__).parents[2]


def stage_definitions() -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.mark.parametrize("path", pipelines(), ids=str)
def test_deps_of_a_stage_are_exactly_the_modules_it_runs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert with_sources(text) == text, "run `python -m protodl.core.sources --write`"


def test_only_evaluation_reads_the_test_split_and_never_augments_it() -> None:
    """Selection on the test set is the first defect of the published numbers."""
    assert "protodl/data/augment.py" in closure("stages/train.py")
    assert "protodl/data/augment.py" not in closure("stages/evaluate.py")
    for name, stage in stage_definitions().items():
        reads = [dep for dep in stage["deps"] if dep.startswith("data/${")]
        whole = [dep for dep in reads if not dep.endswith("/train.pt")]
        assert bool(whole) == (name == "evaluate"), name


def test_every_stage_is_known_by_its_full_name() -> None:
    params = load_params(ROOT / "params.yaml")
    keys = {"${datasets}": list(params.datasets), "${experiments}": list(params.experiments)}
    expected = set()
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        each = [f"{name}@{key}" for key in keys[stage["foreach"]]] if "foreach" in stage else [name]
        expected |= set(each)
    assert every_stage(params) == expected
