"""A trained row in one file: the same bits, damage found, nothing executed."""

import dataclasses
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from protodl.core.files import CheckpointError
from protodl.data.datasets import load_split
from protodl.explanation.local import explain
from protodl.explanation.model import Model
from protodl.explanation.portable import load_portable, save_portable

MEASURED = {"source": "measured here", "test_accuracy": 0.75}


@pytest.fixture(name="file", scope="module")
def _file(model: Model, project: Path) -> Path:
    save_portable(model, MEASURED, project / "row.safetensors")
    return project / "row.safetensors"


def test_it_explains_as_before_but_for_the_nearest_training_images(
    model: Model, file: Path, project: Path
) -> None:
    again, measured = load_portable(file)
    assert measured == MEASURED
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    test = load_split(project / "data" / "mnist" / "test.pt")
    for index in range(3):
        expected, found = (explain(each, test.images[index]) for each in (model, again))
        assert found.nearest_cases == ()
        assert any("need the data" in remark for remark in found.remarks)
        limits = dataclasses.replace(
            found.out_of_distribution, case_distance=expected.nearest_cases[0].distance
        )
        same = dataclasses.replace(
            found,
            nearest_cases=expected.nearest_cases,
            out_of_distribution=limits,
            remarks=expected.remarks,
        )
        assert same == expected
        for one, other in zip(found.prototypes, expected.prototypes, strict=True):
            assert (one.nearest_case.picture == other.nearest_case.picture).all()


def test_the_same_model_gives_the_same_bytes(model: Model, file: Path, tmp_path: Path) -> None:
    save_portable(model, MEASURED, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_flipped_bit_is_found_wherever_it_is(file: Path, tmp_path: Path) -> None:
    whole, chance = file.read_bytes(), random.Random(0)
    header = int.from_bytes(whole[:8], "little")
    places = [chance.randrange(8 + header) for _ in range(150)]
    places += [chance.randrange(8 + header, len(whole)) for _ in range(50)]
    damaged = tmp_path / "damaged.safetensors"
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        damaged.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged\.safetensors: .*fetch it again"):
            load_portable(damaged)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_other_files_are_refused_and_nothing_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.safetensors"
    for content in (b"", file.read_bytes()[:-9], file.read_bytes()[:100], pickle.dumps(Bomb())):
        other.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"other\.safetensors: cannot be read"):
            load_portable(other)
    save_file({"weight": torch.ones(3)}, other)
    with pytest.raises(CheckpointError, match="not written by protodl"):
        load_portable(other)
    with pytest.raises(CheckpointError, match="not there"):
        load_portable(tmp_path / "missing.safetensors")
    assert not (tmp_path / "executed").exists()


def test_a_later_format_is_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("protodl.explanation.portable.PORTABLE_FORMAT", 7)
        save_portable(model, MEASURED, tmp_path / "later.safetensors")
    with pytest.raises(CheckpointError, match="format 7, this protodl reads 1"):
        load_portable(tmp_path / "later.safetensors")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a b", ""])
@pytest.mark.parametrize("of", ["row", "data set"])
def test_a_file_of_others_cannot_name_another_folder(
    model: Model, tmp_path: Path, of: str, name: str
) -> None:
    """What is explained by it is written below explanations/<row>."""
    info = dataclasses.replace(model.info, name=name)
    changed = dataclasses.replace(model, **({"row": name} if of == "row" else {"info": info}))
    save_portable(changed, MEASURED, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is no name of a row or data set"):
        load_portable(tmp_path / "model.safetensors")
