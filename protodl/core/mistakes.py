"""Sections of a file of parameters, and a mistake in one as a sentence with the nearest choice."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def one_of(name: Any, valid: Iterable[str]) -> Any:
    """The name itself; another one than the valid ones is a mistake for pydantic to report."""
    names = list(valid)
    if isinstance(name, str) and name in names:
        return name
    text = not_a_choice(str(name), names)
    raise PydanticCustomError("unknown_name", "{text}", {"text": text})


def explain(file: type[BaseModel], problems: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each mistake that pydantic found in a file: key, value, nearest valid choice."""
    return list(dict.fromkeys(_explain(file, problem) for problem in problems))


def _explain(file: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = problem["loc"]
    parts, kind = _place(file, location)
    key = ".".join(str(part) for part in parts)
    is_name = location[-1:] == ("[key]",)  # what is wrong is the key, not what stands below it
    found = key if is_name else f"{key} = {problem['input']!r}"
    if problem["type"] == "missing":
        return f"{key}: is missing; add it"
    if problem["type"] == "extra_forbidden":
        valid = list(_place(file, location[:-1])[1].model_fields)
        return (
            f"{found}: unknown key{nearest(str(parts[-1]), valid)}; valid keys: {', '.join(valid)}"
        )
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{found}: should hold keys; valid keys: {', '.join(kind.model_fields)}"
    if choices := _choices(kind):
        return f"{found}: {not_a_choice(str(problem['input']), choices)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{found}: {message[:1].lower()}{message[1:]}"


def _place(file: type[BaseModel], location: Sequence[Any]) -> tuple[list[Any], Any]:
    """The key that pydantic's location begins with, and the type that is expected there.

    What follows in the location is pydantic's own: the member of a union that it tried.
    """
    parts: list[Any] = []
    kind: Any = file
    for index, part in enumerate(location):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = field.annotation if field else None
        elif get_origin(kind) in (dict, list):
            is_name = location[index + 1 : index + 2] == ("[key]",)
            kind = get_args(kind)[0 if is_name else -1]
        else:
            break
        parts.append(part)
    return parts, kind


def _choices(kind: Any) -> list[str]:
    """The values that a type allows, as they are written; none where they cannot be listed."""
    if kind is bool:
        return ["false", "true"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        return [choice for member in get_args(kind) for choice in _choices(member)]
    return []


def not_a_choice(word: str, valid: Sequence[str]) -> str:
    """The message for a word that is none of the valid ones."""
    return f"not a valid choice{nearest(word, valid)}; choices: {', '.join(valid)}"


def nearest(word: str, valid: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no valid word is close."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
