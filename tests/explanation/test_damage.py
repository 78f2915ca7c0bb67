"""Damaged files of every kind that is read: refused by name, or read as what was written."""

import io
import os
import pickle
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protodl.core.errors import ProtodlError
from protodl.core.experiment_config import Experiment, ModelConfig
from protodl.core.files import CheckpointError, load_tensors, read_tensors, write_tensors
from protodl.core.machine import Runtime
from protodl.core.training_log import Metrics, ResultsError, SeedEvaluation, SeedLog
from protodl.data.datasets import DATASETS, Split, load_split, save_split
from protodl.evaluation.examiner import summarise
from protodl.explanation.gallery import choose_gallery, load_gallery, save_gallery
from protodl.explanation.model import Model
from protodl.explanation.portable import load_portable, save_portable
from protodl.network.cases import load_case_base, measure_case_base, save_case_base
from protodl.network.checkpoint import load_network, save_network
from protodl.network.judge import Judge, load_judge, save_judge
from protodl.network.network import PrototypeNetwork
from protodl.training.trainer import Hooks, Trainer
from tests.factories import evaluation, training, write_params

pytestmark = pytest.mark.faults
MUTATIONS = int(os.environ.get("PROTODL_MUTATIONS", "2000"))  # of the long run
CPU = Runtime(torch.device("cpu"), torch.float32, torch.contiguous_format, 1)
MODEL = ModelConfig(encoder_init="he", num_prototypes=12)


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what reads it."""

    file: Path
    read: Callable[[Path], object]


def _images(count: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 10)


def _checkpoint(path: Path) -> object:
    """What a training would go on from."""
    network = PrototypeNetwork(MODEL, 1, 28)
    experiment = Experiment(dataset="mnist", model=MODEL, batch_size=20)
    trainer = Trainer(network, _images(40), _images(20), experiment, CPU, 0)
    if not path.exists():
        trainer.run_epoch(Hooks())
        write_tensors(trainer.state(), path)
    read_tensors(path, "a checkpoint", "delete it", trainer.restore)
    return trainer.state()


@pytest.fixture(name="kinds", scope="module")
def _kinds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Kind]:
    """A whole file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    train, other = _images(40), _images(20)
    network = PrototypeNetwork(MODEL, 1, 28).eval()
    info = DATASETS["mnist"]
    case_base = measure_case_base(network, train, other)
    model = Model.of_training("a-row", 0, info, network, case_base, train)
    log = training(write_params(folder, {"a-row": {"dataset": "mnist"}}), "a-row", 0)
    found = {
        "network": Kind(folder / "network.pt", load_network),
        "judge": Kind(folder / "judge.pt", load_judge),
        "case base": Kind(folder / "case_base.pt", load_case_base),
        "gallery": Kind(folder / "gallery.pt", load_gallery),
        "images": Kind(folder / "train.pt", load_split),
        "checkpoint": Kind(folder / "training.pt", _checkpoint),
        "shipped weights": Kind(folder / "a-row.safetensors", load_portable),
        "log": Kind(folder / "log.json", SeedLog.read),
        "evaluation": Kind(folder / "seed-0.json", SeedEvaluation.read),
        "metrics": Kind(folder / "metrics.json", Metrics.read),
    }
    save_network(network, found["network"].file)
    save_judge(Judge(info).eval(), found["judge"].file)
    save_case_base(case_base, found["case base"].file)
    save_gallery(choose_gallery(network, other), found["gallery"].file)
    save_split(train, found["images"].file)
    save_portable(model, {"test_accuracy": 0.5}, found["shipped weights"].file)
    log.write(found["log"].file)
    evaluation(log, 0.9).write(found["evaluation"].file)
    summarise([evaluation(log, 0.9)]).write(found["metrics"].file)
    for kind in found.values():
        kind.read(kind.file)
    return found


TENSORS = ("network", "judge", "case base", "gallery", "images", "checkpoint")
RECORDS = ("log", "evaluation", "metrics")
ALL = (*TENSORS, "shipped weights", *RECORDS)


def same(one: Any, other: Any) -> bool:
    """Whether two things that were read hold the same, to the bit; where they lay is no matter."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.nn.Module):
        return same(dict(one.state_dict()), dict(other.state_dict()))
    if isinstance(one, torch.Tensor | np.ndarray):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and bytes(np.asarray(one)) == bytes(np.asarray(other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[k]) for k, value in one.items())
    if is_dataclass(one):
        names = [field.name for field in fields(one) if field.name != "file"]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


HARMLESS = ("refused", "the same")


def _outcome(kind: Kind, path: Path, expected: object) -> str:
    """Whether it was refused with its path and a remedy in one line, or read as expected."""
    try:
        found = kind.read(path)
    except ProtodlError as error:
        message = str(error)
        named = message.startswith(f"{path}: ") and ";" in message and "\n" not in message
        return "refused" if named else message
    return "the same" if same(found, expected) else "another content"


class Bomb:
    """Pickled, it makes a file when it is read."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("executed"),)


def _bombs() -> list[bytes]:
    archive = io.BytesIO()
    torch.save({"format": 1, "state_dict": Bomb()}, archive)
    old = io.BytesIO()
    torch.save({"format": 1, "state_dict": Bomb()}, old, _use_new_zipfile_serialization=False)
    return [pickle.dumps(Bomb()), archive.getvalue(), old.getvalue()]


def _flipped(whole: bytes, chance: random.Random) -> bytes:
    """One bit flipped; every other time not in a tensor, but in what surrounds them."""
    changed = bytearray(whole)
    places = [chance.randrange(len(whole))]
    if chance.random() < 0.5:
        names = (whole.find(b"PK", chance.randrange(len(whole))), len(whole) - 300, 0)
        start = max(chance.choice(names), 0)
        places = [min(start + chance.randrange(300), len(whole) - 1)]
    changed[places[0]] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _mutated(whole: bytes, others: Sequence[bytes], chance: random.Random) -> tuple[str, bytes]:
    """A damaged file, and how it was damaged."""
    length, place = len(whole), chance.randrange(len(whole))
    size = min(chance.choice((1, 16, 512, 4096)), length - place)
    noise = chance.randbytes(size)
    every = {
        "cut": whole[:place],
        "emptied": b"",
        "a block zeroed": whole[:place] + bytes(size) + whole[place + size :],
        "a block overwritten": whole[:place] + noise + whole[place + size :],
        "a block lost": whole[:place] + whole[place + size :],
        "more at its end": whole + noise,
        "another file": chance.choice(others),
        "a pickle that executes": chance.choice(_bombs()),
    }
    # Half of all damage is a flipped bit.
    how = chance.choice([*every, *["a flipped bit"] * len(every)])
    return how, every[how] if how in every else _flipped(whole, chance)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [10, pytest.param(MUTATIONS // len(ALL), marks=pytest.mark.slow)])
def test_damage_is_refused_by_name_or_changes_nothing(
    kinds: Mapping[str, Kind], name: str, count: int, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, chance = kinds[name], random.Random(f"{name} {count}")
    whole, expected = kind.file.read_bytes(), kind.read(kind.file)
    others = [other.file.read_bytes() for other in kinds.values() if other is not kind]
    path, outcomes = tmp_path / kind.file.name, Counter[str]()
    for _ in range(count):
        how, content = _mutated(whole, others, chance)
        path.write_bytes(content)
        outcomes[outcome := _outcome(kind, path, expected)] += 1
        assert outcome in HARMLESS, how
    print(name, dict(outcomes))
    assert outcomes["refused"] > count / 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_every_bit_of_an_archive_is_checked_or_means_nothing(tmp_path: Path) -> None:
    expected = {"format": 1, "weights": {"w": torch.arange(6.0), "n": torch.arange(3)}, "s": "text"}
    path, outcomes = tmp_path / "file.pt", Counter[str]()
    kind = Kind(path, lambda path: load_tensors(path, "make it"))
    write_tensors(expected, path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        outcomes[outcome := _outcome(kind, path, expected)] += 1
        assert outcome in HARMLESS, bit
    print(dict(outcomes))


def test_a_record_that_torch_would_take_for_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_tensors({"weights": torch.arange(60.0)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"archive/data/0") - 46  # in the archive's directory
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        load_tensors(path, "make it")


@pytest.mark.parametrize("name", TENSORS)
def test_right_format_and_wrong_content_is_refused_by_name(
    kinds: Mapping[str, Kind], name: str, tmp_path: Path
) -> None:
    kind, path = kinds[name], tmp_path / "file.pt"
    whole, expected = load_tensors(kind.file, ""), kind.read(kind.file)
    contents = [None, [whole], {**whole, "format": 2}, {}]
    for key in set(whole) - {"format"}:
        contents.append({k: value for k, value in whole.items() if k != key})
        wrong: tuple[Any, ...] = (
            None,
            "x",
            [],
            {},
            -1,
            1.5,
            True,
            torch.tensor(1.0),
            torch.ones(2, 3),
        )
        contents += [{**whole, key: value} for value in wrong]
        inner = next(iter(whole[key]), None) if isinstance(whole[key], dict) else None
        if inner is not None:
            contents += [{**whole, key: {**whole[key], inner: value}} for value in wrong]
    for content in contents:
        write_tensors(content, path)
        assert _outcome(kind, path, expected) in HARMLESS, content


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_without_a_digest_is_read_and_one_with_a_wrong_one_refused(
    kinds: Mapping[str, Kind], name: str, tmp_path: Path
) -> None:
    kind, path = kinds[name], tmp_path / "record.json"
    text = kind.file.read_text(encoding="utf-8")
    head, digest = text.rsplit(',\n "digest": ', 1)
    path.write_text(head + "\n}\n")  # as before there were digests
    assert kind.read(path) == kind.read(kind.file)
    path.write_text(f'{head.replace("0.", "0.9", 1)},\n "digest": {digest}')
    with pytest.raises(ResultsError, match=r"record\.json: cannot be read \(.*its digest"):
        kind.read(path)
    for other in ("[]", "null", "1", '{"digest": []}', "[" * 10_000, '"\ud800"'):
        path.write_bytes(other.encode("utf-8", "surrogatepass"))
        with pytest.raises(ResultsError, match=r"record\.json: .*; run `dvc repro`"):
            kind.read(path)
