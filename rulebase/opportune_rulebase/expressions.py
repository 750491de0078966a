"""CEL expressions: parsed, type-checked and evaluated by Google's CEL, with their typed tree exposed.

`Scope` holds the declared variables (qualified names such as ``event.amount``); `Scope.compile`
gives an `Expression` or raises `ExpressionError` with every fault positioned. The tree is what the
network engine compiles to Python; `Expression.evaluate` is CEL's own evaluator, the reference.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cel_expr_python import cel
from google.protobuf.message import DecodeError

from opportune_rulebase import checked
from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable, reads, walk

__all__ = [
    "MAX_LENGTH",
    "Call",
    "Constant",
    "Expression",
    "ExpressionError",
    "ListLiteral",
    "Node",
    "Opaque",
    "Scope",
    "Unknown",
    "Variable",
]

MAX_LENGTH = 10_000
"""Code points an expression may have. Far above what a person writes, far below what could hurt."""

_SIMPLE_TYPES = {
    "bool": cel.Type.BOOL,
    "int": cel.Type.INT,
    "uint": cel.Type.UINT,
    "double": cel.Type.DOUBLE,
    "string": cel.Type.STRING,
    "bytes": cel.Type.BYTES,
    "timestamp": cel.Type.TIMESTAMP,
    "duration": cel.Type.DURATION,
    "dyn": cel.Type.DYN,
}
_FAULT = re.compile(r"^(?:\w+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*?)(?: \[[A-Z_]+\])?$", re.MULTILINE)
_STATUS = re.compile(r"^[A-Z_]+: (.*?)(?: \[[A-Z_]+\])?$", re.DOTALL)
_UNDECLARED = re.compile(r"^undeclared reference to '(.*)' \(in container '.*'\)$")
_NO_OVERLOAD = re.compile(r"^found no matching overload for '(.*)' applied to '\((.*)\)'$")
# What CEL gives, for "did you mean" after a misspelt function.
_FUNCTIONS = (
    *("all", "bool", "contains", "double", "duration", "dyn", "endsWith", "exists", "exists_one", "filter"),
    *(
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
    ),
    *(
        "getMinutes",
        "getMonth",
        "getSeconds",
        "has",
        "int",
        "map",
        "matches",
        "size",
        "startsWith",
        "string",
    ),
    *("timestamp", "type", "uint"),
)


class Unknown:
    """The result of an expression over missing or unusable data; `reason` is for people."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Unknown({self.reason!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A checked expression. Compared by identity: two places are two expressions.

    `type` is its CEL type name; `reads` the qualified variables it mentions.
    """

    text: str
    position: Position
    type: str
    tree: Node
    reads: frozenset[str]
    program: Any = field(repr=False)

    def evaluate(self, bindings: Mapping[str, object]) -> object:
        """Evaluate by CEL's own evaluator. Absent bindings are missing data, and so is None.

        Timestamps are bound as aware `datetime`. Returns a plain Python value, or `Unknown` where
        CEL gives an error (missing data, a value not of the declared type, overflow, division by
        zero), with CEL's commutative logic. Never raises.
        """
        data = {}
        for name in self.reads:
            value = bindings.get(name)
            if value is not None:
                data[name] = value
        try:
            result = self.program.compiled.eval(data=data)
            if result.type() in (cel.Type.ERROR, cel.Type.UNKNOWN):
                return Unknown(str(result.plain_value()))
            return result.plain_value()
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            # A binding that cannot be turned into CEL's form, such as a string with half a character.
            return Unknown(str(error))

    def part(self, node: Node) -> Expression:
        """A node of `tree` (the very object) as an expression of its own, with its own program.

        Its text is that of the whole. Raises ValueError if `node` is not part of the tree.
        """
        for ordinal, each in enumerate(walk(self.tree)):
            if each is node:
                serialized = checked.cut(self.program.serialized, ordinal)
                program = _Program(
                    self.program.environment,
                    self.program.environment.deserialize(serialized),
                    serialized,
                )
                return Expression(self.text, self.position, node.type, node, reads(node), program)
        raise ValueError("not a node of this expression's tree")


@dataclass(frozen=True, slots=True)
class _Program:
    """What evaluation needs of CEL: the compiled expression, its checked form, where it was compiled."""

    environment: Any
    compiled: Any
    serialized: bytes


class Scope:
    """The variables that expressions of one rulebase may read. Immutable; safe to share."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """`variables`: qualified name -> CEL type name (`int`, `list<string>`, `map<string, bool>`).

        Raises ValueError for a type name that CEL does not have.
        """
        self._names = frozenset(variables)
        types = {name: _cel_type(type_) for name, type_ in variables.items()}
        self._environment = cel.NewEnv(variables=types)

    def compile(self, text: str, position: Position, *, expect: str | None = None) -> Expression:
        """Parse and check `text`.

        Raises ExpressionError with every fault and its line and column in `text`, among them a
        result that is not of type `expect`, and a "did you mean" for an undeclared name.
        """
        if len(text) > MAX_LENGTH:
            fault = f"an expression may have {MAX_LENGTH} characters, this one has {len(text)}: split it"
            raise ExpressionError(text, ((1, 1, fault),))
        try:
            compiled = self._environment.compile(text)
            serialized = compiled.serialize()
            tree = checked.tree(checked.parse(serialized), self._names)
        except DecodeError:
            fault = "this expression is nested too deeply: name parts of it as behaviours or scenes"
            raise ExpressionError(text, ((1, 1, fault),)) from None
        except (RuntimeError, TypeError, UnicodeError) as error:
            raise ExpressionError(text, tuple(self._faults(text, str(error)))) from None
        if expect is not None and tree.type != expect:
            fault = f"this must give {expect}, but gives {tree.type}"
            raise ExpressionError(text, ((1, 1, fault),))
        return Expression(
            text, position, tree.type, tree, reads(tree), _Program(self._environment, compiled, serialized)
        )

    def _faults(self, text: str, report: str) -> Iterator[tuple[int, int, str]]:
        """CEL's report, taken apart: (line, column, message), sorted, without repetition."""
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
            return iter([(1, 1, "this is not valid Unicode: remove the lone surrogate")])
        faults = {self._fault(text, *map(str, each)) for each in _FAULT.findall(report)}
        if not faults:
            found = _STATUS.match(report)
            faults = {(1, 1, found[1] if found else report)}
        return iter(sorted(faults))

    def _fault(self, text: str, line_text: str, column_text: str, message: str) -> tuple[int, int, str]:
        line, column = max(int(line_text), 1), max(int(column_text), 1)
        if undeclared := _UNDECLARED.match(message):
            name = undeclared[1]
            if name in _FUNCTIONS:
                return line, column, f"'{name}' is not written like this: see the list of functions of CEL"
            source = text.split("\n")[line - 1] if line <= text.count("\n") + 1 else ""
            # CEL points at the last dot of a qualified name; a person looks for its beginning.
            prefix = name.rpartition(".")[0]
            if prefix and source[: column - 1].endswith(prefix):
                column -= len(prefix)
            return line, column, f"unknown name '{name}'{self._suggestion(name)}"
        if overload := _NO_OVERLOAD.match(message):
            operator = overload[1].strip("_@")
            operands = overload[2].replace("list(", "list<").replace("map(", "map<").replace(")", ">")
            message = f"'{operator}' cannot be applied to ({operands}): the types must fit exactly"
        return line, column, message

    def _suggestion(self, name: str) -> str:
        known = [*sorted(self._names), *_FUNCTIONS]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        return f": did you mean '{close[0]}'?" if close else ""


def _cel_type(name: str) -> Any:
    """`list<string>` as CEL's own type object."""
    if simple := _SIMPLE_TYPES.get(name):
        return simple
    if name.startswith("list<") and name.endswith(">"):
        return cel.Type.List(_cel_type(name[5:-1].strip()))
    if name.startswith("map<") and name.endswith(">"):
        key, comma, value = name[4:-1].partition(",")
        if comma:
            return cel.Type.Map(_cel_type(key.strip()), _cel_type(value.strip()))
    raise ValueError(f"{name!r} is not a type of the expression language")
