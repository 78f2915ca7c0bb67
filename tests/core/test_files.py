"""Files appear whole or not at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from protodl.core.files import (
    FORMAT,
    CheckpointError,
    read_tensors,
    replacing,
    scratch_folder,
    write_json,
    write_tensors,
    write_text,
)
from tests.disks import SIZE, read_only_disk, small_disk


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text("old", path)

    def stopped() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.faults
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """Of the same name; what belongs to a process that lives stays, and so do other names."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    unnoticed = subprocess.Popen([sys.executable, "-c", ""])  # by its parent: a zombie
    end = time.monotonic() + 10
    while psutil.Process(unnoticed.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
    (tmp_path / f".a.txt.{unnoticed.pid}.part").write_text("half")
    mine, other = tmp_path / f".a.txt.{os.getppid()}.part", tmp_path / f".b.{dead.pid}.part"
    for left in (tmp_path / f".a.txt.{dead.pid}.part", mine, other, tmp_path / ".a.txt.x.part"):
        left.write_text("half")
    (tmp_path / f".c.{dead.pid}.part").mkdir()
    write_text("whole", tmp_path / "a.txt")
    unnoticed.wait()
    with scratch_folder(tmp_path / "c") as scratch:
        (scratch / "d").touch()
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.txt", mine.name, other.name, ".a.txt.x.part"
    }  # fmt: skip


@pytest.mark.faults
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "file.pt"
    with small_disk(path.parent) as words:
        write_tensors({"weights": torch.arange(3.0)}, path)
        before = path.read_bytes()
        for size in (SIZE // 4, SIZE // 4 + 2000, SIZE):  # fails in, and after, the last record
            with pytest.raises(OSError, match=f"{words}: '{path}'"):
                write_tensors({"weights": torch.zeros(size)}, path)
            with pytest.raises(OSError, match=f"{words}: '{path}'"):
                write_text("x" * 4 * size, path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.faults
def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "file.json"
    with read_only_disk(path.parent) as words, pytest.raises(OSError, match=f"{words}: '{path}'"):
        write_json({}, path)


def test_text_is_utf8_and_json_has_a_key_a_line(tmp_path: Path) -> None:
    write_text("±\n", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == "±\n".encode()
    write_json({"b": 1, "a": [2]}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == '{\n "b": 1,\n "a": [\n  2\n ]\n}\n'


def test_tensors_come_back_and_their_bytes_do_not_depend_on_the_name(tmp_path: Path) -> None:
    data = {"format": FORMAT, "weights": torch.arange(3.0)}
    for name in ("one.pt", "two.pt"):
        write_tensors(data, tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    found = read_tensors(tmp_path / "one.pt", "weights", "", lambda data: data["weights"])
    assert torch.equal(found, torch.arange(3.0))
    with pytest.raises(CheckpointError, match=r"one\.pt: is not a network of this .*; train it"):
        read_tensors(tmp_path / "one.pt", "a network", "train it", lambda data: data["network"])
    with pytest.raises(CheckpointError, match=r"three\.pt: not there; train it"):
        read_tensors(tmp_path / "three.pt", "weights", "train it", dict)


def test_writing_a_text_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from protodl.core.files import write_text;"
        "write_text('x', Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.txt"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
