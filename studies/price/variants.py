"""The study's params.yaml: every row of the project without what was added for its explanations.

`python -m studies.price.variants`, in the project's folder, writes the file again.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from protodl.core.config import ConfigError, Params, load_params
from protodl.core.errors import ProtodlError

CHANGES = {
    "model": {"project": False},
    "loss": {"prototype_classification": 0.0, "cycle": 0.0, "diversity": 0.0},
}
PRECISION = "float32"  # that of the committed rows, whatever `auto` is on another processor
HEADER = """\
# Written by `python -m studies.price.variants` from the project's own params.yaml.
"""


def study_params(project: Params) -> dict[str, Any]:
    """Contents of the study's params.yaml: seeds, split, epochs and the rest are the project's."""
    data = project.model_dump(mode="json", exclude_none=True)
    del data["judge"]  # the project's own judges measure
    data["training"]["precision"] = PRECISION
    for row in data["experiments"].values():
        for section, keys in CHANGES.items():
            row[section] |= keys
    return data


def params_text(project: Params) -> str:
    """The same as the file's text."""
    return HEADER + yaml.safe_dump(study_params(project), sort_keys=False)


def load_study(params: Path, project: Path) -> Params:
    """Read the study's params.yaml.

    Raises:
        ConfigError: a file is wrong, or the study's is not made from the project's as that is now.
    """
    study = load_params(params)
    if study != Params.model_validate(study_params(load_params(project))):
        raise ConfigError(
            f"{params}: is not made from {project} as it is now; run "
            "`python -m studies.price.variants`, then `make price`"
        )
    return study


def main() -> int:
    """Write the study's params.yaml."""
    try:
        text = params_text(load_params(Path("params.yaml")))
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Path(__file__).with_name("params.yaml").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
