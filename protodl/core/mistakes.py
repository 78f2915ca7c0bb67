"""Sections of a file of parameters, and a mistake in one as a sentence with the nearest choice."""

import difflib
import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

MOST_CHOICES = 20  # that a message lists
LONGEST_WORD, LONGEST_LINE, LONGEST_MESSAGE = 70, 900, 3500  # characters; the others in bytes
_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel, _SHORTENED.maxdict, _SHORTENED.maxlist = 2, 3, 12
_SHORTENED.maxstring = _SHORTENED.maxlong = _SHORTENED.maxother = LONGEST_WORD


class Unread:
    """What stands in a file as a number, and is none or not the same one for all readers."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    @property
    def problem(self) -> str:
        """Why no key takes it, and what to write instead."""
        plain = self.text.replace("_", "").lstrip("0")
        meant = f"; did you mean {plain}?" if plain.isdecimal() and len(plain) < 20 else ""
        return (
            "not a number that is read alike everywhere; write it in decimals without leading "
            f"zeros, a text in quotes{meant}"
        )


def shown(value: Any) -> str:
    """A value as a message shows it: short, however large it is."""
    return _cut(_SHORTENED.repr(value))


def _cut(text: str) -> str:
    text = text if text.isprintable() else repr(text)[1:-1]  # a terminal would obey it
    return text if len(text) <= 2 * LONGEST_WORD else f"{text[: 2 * LONGEST_WORD]}…"


def listed(names: Iterable[Any]) -> str:
    """Some names with commas between them, the first ones of many."""
    names = list(names)
    first = ", ".join(_cut(str(name)) for name in names[:MOST_CHOICES])
    more = len(names) - MOST_CHOICES
    return f"{first} and {more} more" if more > 0 else first


def joined(lines: Iterable[str]) -> str:
    """The lines of a message, each once and as many as one reads: less than 4 kB."""
    told: dict[str, None] = {}
    for line in lines:
        short = line.encode(errors="backslashreplace")[:LONGEST_LINE].decode(errors="ignore")
        if len("\n".join([*told, short]).encode()) > LONGEST_MESSAGE:
            return "\n".join([*told, "and further mistakes"])
        told[short] = None
    return "\n".join(told)


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}  # keys and values that have other names now


def one_of(name: Any, valid: Iterable[str]) -> Any:
    """The name itself; another one than the valid ones is a mistake for pydantic to report."""
    names = list(valid)
    if isinstance(name, str) and name in names:
        return name
    raise PydanticCustomError("unknown_name", "not a valid choice", {"valid": names})


def explain(file: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """A mistake that pydantic found in a file: key, value, reason, nearest valid choice."""
    location = problem["loc"]
    parts, kind = _place(file, location)
    key, value = ".".join(_cut(str(part)) for part in parts), problem["input"]
    is_name = location[-1:] == ("[key]",)  # what is wrong is the key, not what stands below it
    found = key if is_name else f"{key} = {shown(value)}"
    if problem["type"] == "missing":
        return f"{key}: is missing; add it"
    if new := _new_name(file, parts, problem):
        return f"{found}: is called {new!r} now"
    if problem["type"] == "extra_forbidden":
        valid = list(_place(file, location[:-1])[1].model_fields)
        return f"{found}: unknown key{nearest(str(parts[-1]), valid)}; valid keys: {listed(valid)}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{found}: should hold keys; valid keys: {listed(kind.model_fields)}"
    if isinstance(value, Unread):
        return f"{found}: {value.problem}"
    if choices := problem.get("ctx", {}).get("valid") or _choices(kind):
        return (
            f"{found}: {not_a_choice(value if isinstance(value, str) else shown(value), choices)}"
        )
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


def _new_name(
    file: type[BaseModel], parts: Sequence[Any], problem: Mapping[str, Any]
) -> str | None:
    """What the key or the value is called now, if it was called that before."""
    section = _place(file, parts[:-1])[1]
    word = parts[-1] if problem["type"] == "extra_forbidden" else problem["input"]
    if not (isinstance(section, type) and issubclass(section, Section) and isinstance(word, str)):
        return None
    return section.renamed.get(word)


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
    return f"not a valid choice{nearest(word, valid)}; choices: {listed(valid)}"


def nearest(word: str, valid: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no valid word is close."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
