"""DVC stage check: read the whole of params.yaml before anything is computed from it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.errors import ProtodlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; return the exit status, 1 when params.yaml has a mistake."""
    options = _parser().parse_args(arguments)
    try:
        load_params(options.params)
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    # Always the same text: the stages that wait for this one must not run again after every edit.
    options.output.write_text("params.yaml is valid\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.check", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--output", type=Path, required=True, help="file that says it is valid")
    return parser


if __name__ == "__main__":
    sys.exit(main())
