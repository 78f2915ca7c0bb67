"""The scaffold of the stages: options, exit status, one message."""

from argparse import Namespace
from pathlib import Path

import pytest

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
