"""The scaffold of the stages: options, exit status, one message."""

import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from protodl.core.errors import ProtodlError
from protodl.core.stage import Options, Stage

OPTIONS: Options = {
    "row": "which row",
    "--output": "file to write",
    "--sample": {"default": Path("here"), "help": "another folder"},
}


def test_options_become_paths_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Namespace] = []

    def work(options: Namespace) -> None:
        seen.append(options)

    assert Stage(work, OPTIONS)(["grey", "--output", "out"]) == 0
    assert vars(seen[0]) == {"row": "grey", "output": Path("out"), "sample": Path("here")}
    with pytest.raises(SystemExit):
        Stage(work, OPTIONS)(["grey"])
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ProtodlError("rows.yaml: wrong"), OSError("disk full")])
def test_a_mistake_is_one_message(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work(_options: Namespace) -> None:
        raise error

    assert Stage(work, {})([]) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_fault_of_the_program_is_not_hidden() -> None:
    def work(_options: Namespace) -> None:
        raise ValueError("a shape is wrong")

    with pytest.raises(ValueError, match="a shape is wrong"):
        Stage(work, {})([])


@pytest.mark.faults
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to\nlines"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB."),
        NotImplementedError("The operator 'aten::x' is not implemented for the MPS device."),
        RuntimeError("CUDA error: no kernel image is available\nCompile with ..."),
    ],
)
def test_a_device_that_gives_up_is_one_line_with_what_to_do(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_options: Namespace) -> None:
        raise error

    assert Stage(work, {})([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "training.device: cpu" in line or "lower batch_size" in line


PRINTS = """
import sys
from protodl.core.stage import Stage
def work(options):
    for number in range(20_000):
        print(number, "± Gödel \\udcff 漢")
sys.exit(Stage(work, {})([]))
"""


def printing(encoding: str, then: str) -> "subprocess.CompletedProcess[str]":
    """Let a stage print into a pipe whose reader is another command."""
    command = f'set -o pipefail; {sys.executable} -c "$PROGRAM" | {then}'
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PROGRAM": PRINTS}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.faults
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_character_ends_a_stage(encoding: str) -> None:
    answer = printing(encoding, "tail -n 1 | iconv -f latin1")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("19999 ")


@pytest.mark.faults
def test_a_reader_who_has_gone_ends_a_stage_without_a_word() -> None:
    answer = printing("utf-8", "head -n 2")
    assert (answer.returncode, answer.stderr) == (128 + signal.SIGPIPE, "")
    assert len(answer.stdout.splitlines()) == 2
