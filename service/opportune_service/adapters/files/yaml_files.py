"""Small YAML files that are read into a model: everything that is wrong with one, each with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from opportune_service.adapters.files.faults import Fault
from opportune_service.app.errors import OpportuneError

MAX_BYTES = 1024 * 1024

M = TypeVar("M", bound=BaseModel)
Place = tuple[int | str, ...]
"""The keys and list numbers that lead to a value."""


class YamlFileError(OpportuneError):
    """A file is refused. `faults`: everything wrong with it, in order; line 0 for what has no line. The
    message has one line for each. A value is never quoted unless it is a key or a name."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "\n".join(str(each) if each.line else f"{each.file}: {each.message}" for each in self.faults)
        )


def read_yaml(
    path: Path,
    model: type[M],
    what: str,
    further: Callable[[Any], Iterable[tuple[Place, str]]] = lambda _: (),
) -> tuple[M, Callable[[Place], int]]:
    """Read the file into `model`; also what tells the line of a place. `what`: what such a file is, for
    files that are none. `further` faults are found in the file as it was read. Raises `YamlFileError`."""
    tree = _tree(path, what)
    found = list(further(tree))
    made: M | None = None
    try:
        made = model.model_validate(tree)
    except ValidationError as error:
        places = [fault["loc"] for fault in error.errors()]
        found += [
            (fault["loc"], _say(dict(fault)))
            for fault in error.errors()
            if fault["type"] != "too_short" or not any(_below(place, fault["loc"]) for place in places)
        ]
    if found or made is None:
        lines = sorted((_line(tree, place), text) for place, text in found)
        raise YamlFileError(Fault(str(path), line, text) for line, text in lines)
    return made, lambda place: _line(tree, place)


def _tree(path: Path, what: str) -> Any:
    def refused(line: int, message: str) -> YamlFileError:
        return YamlFileError([Fault(str(path), line, message)])

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise refused(0, f"larger than {MAX_BYTES} bytes; {what}")
        tree = YAML(typ="rt", pure=True).load(data.decode())
    except OSError as error:
        raise refused(0, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refused(0, f"not UTF-8 at byte {error.start + 1}") from error
    except (YAMLError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        problem = getattr(error, "problem", None) or type(error).__name__
        raise refused(mark.line + 1 if mark else 0, f"not YAML: {problem}") from error
    if not isinstance(tree, Mapping):
        raise refused(0, what)
    return tree


def _below(place: Place, above: Place) -> bool:
    """A list whose items are wrong is told to be too short as well; that is no fault of its own."""
    return len(place) > len(above) and place[: len(above)] == above


def _line(tree: Any, place: Place) -> int:
    """The line of a key path, as deep as the file goes."""
    line = 1
    for key in place:
        try:
            line = tree.lc.data[key][0] + 1
            tree = tree[key]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return line


def _say(fault: dict[str, Any]) -> str:
    path = ".".join(str(key) for key in fault["loc"] if key != "[key]")
    if fault["type"] == "extra_forbidden":
        text = "unknown key"
    elif fault["type"] == "missing":
        text = "this key is missing"
    elif fault["type"] == "string_type":
        text = "must be a text; put it in quotes"
    elif fault["type"] == "tuple_type":
        text = "must be a list"
    elif fault["type"] == "model_type":
        text = "must be a map"
    elif fault["type"] == "too_short":
        text = f"write at least {fault['ctx']['min_length']}"
    else:
        text = re.sub(r"^Value error, ", "", fault["msg"])
    return f"{path}: {text}" if path else text
