"""How the script of a stage is run: options in, files out, one message where that fails."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeAlias

from protodl.core.errors import ProtodlError
from protodl.core.process import end_with_parent

Options: TypeAlias = Mapping[str, str | Mapping[str, Any]]

# What torch says where a device cannot go on, whatever the parameters; and what to do.
OF_DEVICES = {
    "can't allocate memory": "lower batch_size or model.num_prototypes",
    "out of memory": "lower batch_size or model.num_prototypes, or say training.device: cpu",
    "MPS": "say training.device: cpu",
    "CUDA error": "say training.device: cpu",
}


def run_reporting(work: Callable[[], None]) -> int:
    """Do what a command is for; returns its exit status.

    Mistakes, and devices that give up, are told in one message, status 1; a fault of the program
    is raised. A reader of the output who has gone (`| head`) ends it without a word.
    """
    let_output_pass()
    try:
        work()
        print(end="", flush=True)  # fails here, not in the interpreter's last moment
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        text = str(error) or "out of memory"
        advice = next((advice for words, advice in OF_DEVICES.items() if words in text), None)
        if advice is None:
            raise
        print(f"error: {text.partition(chr(10))[0]}; {advice}", file=sys.stderr)
        return 1
    return 0


def let_output_pass() -> None:
    """Print a character that the terminal's encoding lacks as its number, instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@dataclass(frozen=True)
class Stage:
    """The `main` of a stage's script: a function from options to files, and its options.

    `options` gives the help of each option by its name. A name with dashes takes a path and is
    required; another takes a word. Where that is not enough, a value holds the arguments of
    `ArgumentParser.add_argument` instead: {"default": Path("data/sample"), "help": "the sample"}.
    """

    work: Callable[[argparse.Namespace], None]
    options: Options

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the stage; the exit status is 1 when a file or a parameter is not as it should be.

        The end of a DVC that has started it ends it like SIGTERM.
        """
        options = self._parser().parse_args(arguments)
        # torch and MLflow bring half a million objects that stay; looking for garbage among them
        # would take a fifth of the time that a stage spends beside its own work.
        gc.set_threshold(200_000, 10, 10)

        def work() -> None:
            if "DVC_STAGE" in os.environ:
                end_with_parent()  # otherwise a killed DVC leaves it at work, unseen
            self.work(options)

        return run_reporting(work)

    def _parser(self) -> argparse.ArgumentParser:
        script = sys.modules[self.work.__module__]
        name = script.__spec__.name if script.__spec__ else script.__name__
        parser = argparse.ArgumentParser(prog=f"python -m {name}", description=script.__doc__)
        for option, meaning in self.options.items():
            given: dict[str, Any] = {"help": meaning} if isinstance(meaning, str) else dict(meaning)
            if option.startswith("--"):
                given = {"type": Path, "required": "default" not in given, **given}
            parser.add_argument(option, **given)
        return parser
