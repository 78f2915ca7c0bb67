"""Files of parameters as they are written: YAML, defaults, recipes, and a study on its base."""

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from protodl.core.errors import ProtodlError
from protodl.core.mistakes import not_a_choice


class ConfigError(ProtodlError):
    """A mistake in params.yaml; the message names the file, the key, the value and the remedy."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats, which refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, Hashable):
                problem = f"{key!r} cannot be a key"
            elif key in seen:
                problem = f"key {key!r} stands twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 6e-4 is a string; `dvc exp run -S` writes exactly such numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_file(path: Path) -> dict[str, Any]:
    """The keys of a file; raises ConfigError where it cannot be read or is no YAML mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (it is safe)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as seeds, experiments; found {data!r}")
    return data


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over` on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def resolved_rows(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Every row of a file whole: the defaults, over them its recipe, over that its own keys.

    Raises:
        ConfigError: a row's preset is not among the recipes.
    """
    defaults, recipes = data.get("defaults", {}), data.get("recipes", {})
    rows = {}
    for name, row in data["experiments"].items():
        preset = row.get("preset")
        if preset and preset not in recipes:
            raise ConfigError(
                f"{path}: experiments.{name}.preset = {preset!r}: there is no recipes.{preset}"
            )
        rows[name] = merge(merge(defaults, recipes.get(preset or row["dataset"], {})), row)
    return rows


def base_of(path: Path, study: Mapping[str, Any]) -> Path:
    """The params.yaml that a study at `path` is read on top of."""
    return Path(os.path.normpath(path.parent / study["base"]))


def on_base(
    study: Mapping[str, Any], project: Mapping[str, Any], path: Path, base: Path
) -> dict[str, Any]:
    """A study as a params.yaml of its own: what it does not say is the project's.

    Raises:
        ConfigError: a row of the study begins with a row that the project lacks, or with one of
            another data set.
    """
    rows = {}
    for name, row in study["experiments"].items():
        where, start = f"{path}: experiments.{name}", project["experiments"].get(row["row"])
        if start is None:
            wrong = not_a_choice(row["row"], list(project["experiments"]))
            raise ConfigError(f"{where}.row = {row['row']!r}: {wrong} (the rows of {base})")
        if row["dataset"] != start["dataset"]:
            its = f"the data set of {row['row']} is {start['dataset']}"
            raise ConfigError(f"{where}.dataset = {row['dataset']!r}: {its}")
        own = {key: value for key, value in row.items() if key != "row"}
        rows[name] = merge(merge(start, study.get("overrides", {})), own)
    shared = {key: study[key] for key in ("seeds", "data", "training") if key in study}
    return {**merge(project, shared), "experiments": rows}
