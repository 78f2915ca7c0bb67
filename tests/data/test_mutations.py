"""Mutated data files and pictures are refused by name, within bounds of time and memory."""

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from protodl.core.dataset_config import PUBLISHED
from protodl.data.torchvision_sets import ReadError, published_checksums, read_files
from tests.data.mutations import KINDS, run

pytestmark = pytest.mark.faults
COUNT = int(os.environ.get("PROTODL_MUTATED_DATA", "10000"))  # of the long run


@pytest.mark.parametrize("kind", KINDS)
def test_some_mutated_files(kind: str, tmp_path: Path) -> None:
    figures = run(kind, 40, tmp_path)
    assert figures["refused"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files(kind: str) -> None:
    count = math.ceil(COUNT / len(KINDS))
    command = [sys.executable, "-m", "tests.data.mutations", kind, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    print(kind, done.stdout)
    figures = json.loads(done.stdout)
    assert figures["refused"] + figures["read"] == count
    assert figures["peak_mib"] < 1000
    assert figures["longest_seconds"] < 10


class Bomb:
    """Pickled, it makes a file when it is read."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_batch_that_would_run_code_is_refused_whatever_its_checksum(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = PUBLISHED["cifar10"]
    files = {path: tmp_path / Path(path).name for path in published_checksums(config)}
    for file in files.values():
        file.write_bytes(pickle.dumps({"data": Bomb(), "labels": []}, protocol))
    with pytest.raises(ReadError, match=r"are no CIFAR10 \(it would run"):
        read_files("cifar10", config, files)
    assert not (tmp_path / "executed").exists()
