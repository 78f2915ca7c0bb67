"""Files of parameters as they are written: YAML, defaults, recipes, and a study on its base."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from protodl.core.errors import ProtodlError
from protodl.core.mistakes import Unread, joined, not_a_choice, shown


class ConfigError(ProtodlError):
    """A mistake in params.yaml; the message names the file, the key, the value and the remedy."""


LARGEST_FILE = 2**16  # bytes, which take a second to read; the project's own has 7,000
DEEPEST = 20  # levels of nesting; five have a meaning
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
TEXT = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """SafeLoader for numbers that all versions of YAML read alike, and for texts as keys."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth == DEEPEST:
            mark = self.get_mark()
            problem = f"nested more than {DEEPEST} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if key.value == "<<":
                problem = "no merge keys (<<) here: what rows share belongs in defaults or recipes"
            elif key.tag != TEXT:
                problem = f"{_written(key)} cannot be a key: it is not a text; put it in quotes"
            elif key.value in seen:
                problem = f"key {shown(key.value)} stands twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float | Unread:
        text = str(self.construct_scalar(node))
        if INTEGER.fullmatch(text):
            return int(text)
        if FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return Unread(text)

    def construct_truth(self, node: yaml.ScalarNode) -> bool | Unread:
        text = str(self.construct_scalar(node))
        return self.bool_values.get(text.lower(), Unread(text))

    def construct_equals(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))  # YAML 1.1 has a meaning for a plain `=`


def _written(node: yaml.Node) -> str:
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else "what is no scalar"


# PyYAML follows YAML 1.1, where 6e-4 is a string; `dvc exp run -S` writes exactly such numbers.
# DVC follows YAML 1.2, where 0o17 is a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(rf"({FLOAT.pattern}|0o[0-7]+|[-+]?0[0-9]+)$"),
    [*"-+.0123456789"],
)
for _kind in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_truth)
_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_equals)


def read_file(path: Path) -> dict[str, Any]:
    """The keys of a file; raises ConfigError where it cannot be read or is no YAML mapping."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # a pipe would be waited for
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise OSError(f"it has {size} bytes, {LARGEST_FILE} are allowed")
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (it is safe)
    except yaml.YAMLError as error:
        reason = joined([" ".join(str(error).split()).replace(' in "<unicode string>",', " in")])
        raise ConfigError(f"{path}: is not valid YAML: {reason}") from error
    except (OSError, ValueError) as error:  # ValueError: no path at all, or another encoding
        reason = joined([str(error)])
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a YAML file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as seeds, experiments; found {shown(data)}")
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
    """The params.yaml that a study at `path` is read on top of.

    Raises:
        ConfigError: it cannot be read, or is a study itself.
    """
    base = Path(os.path.normpath(path.parent / study["base"]))
    if "base" in read_file(base):
        raise ConfigError(f"{path}: base = {shown(study['base'])}: is a study itself")
    return base


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
            raise ConfigError(f"{where}.row = {shown(row['row'])}: {wrong} (the rows of {base})")
        if row["dataset"] != start["dataset"]:
            its = f"the data set of {row['row']} is {start['dataset']}"
            raise ConfigError(f"{where}.dataset = {shown(row['dataset'])}: {its}")
        own = {key: value for key, value in row.items() if key != "row"}
        rows[name] = merge(merge(start, study.get("overrides", {})), own)
    shared = {key: study[key] for key in ("seeds", "data", "training") if key in study}
    return {**merge(project, shared), "experiments": rows}
