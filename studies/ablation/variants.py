"""The variants of the study, and its params.yaml, written from them and the project's own rows.

`python -m studies.ablation.variants`, in the project's folder, writes the file again.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from protodl.core.config import Params, load_params
from protodl.core.errors import ProtodlError

BASES = {"mnist": "mnist-small-deconv", "cifar10": "cifar10-small-deconv"}  # rows of the project
EPOCHS = 2
SEEDS = [0]
PROTOTYPES = (5, 15, 50)

Changes = Mapping[str, Mapping[str, Any]]

PLAIN: Changes = {  # a fully connected layer in place of the prototypes, begun as such layers are
    "model": {
        "distance": "none",
        "project": False,
        "prototype_init": "xavier",
        "head_init": "kaiming",
    },
    "loss": dict.fromkeys(("r1", "r2", "prototype_classification", "cycle", "diversity"), 0.0),
}
VARIANTS: Mapping[str, Changes] = {
    "default": {},
    "no-r1": {"loss": {"r1": 0.0}},
    "no-r2": {"loss": {"r2": 0.0}},
    "no-r1-r2": {"loss": {"r1": 0.0, "r2": 0.0}},
    "no-prototype-class": {"loss": {"prototype_classification": 0.0}},
    "no-cycle": {"loss": {"cycle": 0.0}},
    "no-diversity": {"loss": {"diversity": 0.0}},
    "no-prototype-terms": {
        "loss": {"prototype_classification": 0.0, "cycle": 0.0, "diversity": 0.0}
    },
    "projected": {"model": {"project": True}},
    "not-projected": {"model": {"project": False}},
    "random-prototypes": {
        "model": {"train_prototypes": False, "prototype_init": "uniform", "project": False}
    },
    "plain-layer": PLAIN,
    "plain-cnn": {**PLAIN, "loss": {**PLAIN["loss"], "reconstruction": 0.0}},
    **{f"{count}-prototypes": {"model": {"num_prototypes": count}} for count in PROTOTYPES},
}
HEADER = f"""\
# Written by `python -m studies.ablation.variants` from the project's own params.yaml, rows
# {" and ".join(BASES.values())}; to change a variant, edit that script and run it again.
"""


def study_rows(project: Params) -> dict[str, dict[str, Any]]:
    """Every row of the study, whole: those of each data set follow each other, its default first.

    Raises:
        ConfigError: the project has not the rows that the study starts from.
    """
    rows = {}
    for dataset, base in BASES.items():
        default = project.experiment(base).model_dump(mode="json", exclude_none=True)
        default["epochs"] = EPOCHS
        for name, changes in VARIANTS.items():
            row = _changed(default, changes)
            if row != default or name == "default":  # the default's own number of prototypes
                rows[f"{dataset}-{name}"] = row
        rows[f"{dataset}-port"] = _port(default)
    return rows


def _changed(row: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    return {**row, **{section: {**row[section], **keys} for section, keys in changes.items()}}


def _port(default: Mapping[str, Any]) -> dict[str, Any]:
    """The port's recipe, as short, with as many prototypes, and no elastic colour images."""
    model = {key: default["model"][key] for key in ("architecture", "decoder", "num_prototypes")}
    row = {"dataset": default["dataset"], "preset": "port", "model": model}
    if default["augment"]["elastic_alpha"] == 0:
        row["augment"] = {"elastic_alpha": 0.0}
    return {**row, "epochs": default["epochs"]}


def params_text(project: Params) -> str:
    """The study's params.yaml: a section that a default has is spelled out there and named.

    An alias stands for it in the other rows, so that each shows what it changes. (Merge keys would
    be shorter still, but a params.yaml must not have them.)
    """
    shared = project.model_dump(mode="json")
    head = [f"{key}: {_flow(shared[key])}" for key in ("data", "training")]
    return "\n".join(
        [HEADER, f"seeds: {SEEDS}", *head, "experiments:", *_lines(study_rows(project)), ""]
    )


def _lines(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    anchors: dict[str, str] = {}  # a section's text -> its name
    for row, content in rows.items():
        yield f"  {row}:"
        for key, value in content.items():
            text = _flow(value)
            if text in anchors:
                text = f"*{anchors[text]}"
            elif row.endswith("-default") and isinstance(value, Mapping):
                anchors[text] = f"{content['dataset']}-{key}"
                text = f"&{anchors[text]} {text}"
            yield f"    {key}: {text}"


def _flow(value: Any) -> str:
    """A value as YAML between braces, or plain; lines after the first one are indented."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=75)
    return text.removesuffix("...\n").strip().replace("\n", "\n    ")


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
