"""DVC stage check: read the whole of params.yaml before anything is computed from it."""

from argparse import Namespace

from protodl.core.check import check_params
from protodl.core.files import write_text
from protodl.core.process import run_script
from protodl.core.stage import Stage


def check(options: Namespace) -> None:
    """Read params.yaml, then say that it is valid."""
    check_params(options.params)
    # Always the same text: the stages that wait for this one must not run again after every edit.
    write_text("params.yaml is valid\n", options.output)


OPTIONS = {
    "--params": "params.yaml",
    "--output": "file that says it is valid",
}
main = Stage(check, OPTIONS)

if __name__ == "__main__":
    run_script(main)
