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
from functools import lru_cache
from typing import Any

from cel_expr_python import cel
from google.protobuf.message import DecodeError

from opportune_rulebase import checked
from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable, reads, walk

__all__ = [
    "MAX_GROWTH",
    "MAX_LENGTH",
    "RESERVED",
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

RESERVED = frozenset(
    (
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in"),
        *("let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while"),
    )
)
"""Words of the expression language: no variable can be called so."""

MAX_LENGTH = 10_000
"""Code points an expression may have. Far above what a person writes, far below what could hurt."""

MAX_GROWTH = 1_000
"""How many times over an expression may build what it is given: see `checked.growth`."""

_MAX_SUGGESTIONS = 100  # each compares a name with every known one
_MAX_SUGGESTED_LENGTH = 80

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
# The grammar's names of what it expected tell a person nothing.
_EXPECTED = re.compile(r" expecting (\{.*\}|<EOF>)$")
_PRESENCE = re.compile(r"\bhas\(\s*([\w.]+)\s*\)")
_BRACKETS = re.compile(r"\b(list|map)\(([^()]*)\)")
_NO_OVERLOAD = re.compile(r"^found no matching overload for '(.*)' applied to '\((.*)\)'$")
# What CEL gives, for "did you mean" after a misspelt function.
_FUNCTIONS = (
    *(
        "all",
        "bool",
        "bytes",
        "contains",
        "double",
        "duration",
        "dyn",
        "endsWith",
        "exists",
        "exists_one",
        "filter",
    ),
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
            compiled = self.program.compiled
            if any(map(_has_nul, data.values())):
                compiled = self.program.given({name: each for name, each in data.items() if _has_nul(each)})
            result = compiled.eval(data=data)
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
        parts, ordinals = _cut(self.program)
        ordinal = ordinals.get(id(node))
        if ordinal is None:
            raise ValueError("not a node of this expression's tree")
        serialized = parts.cut(ordinal)
        environment = self.program.environment
        program = _Program(environment, environment.deserialize(serialized), serialized, node)
        return Expression(self.text, self.position, node.type, node, reads(node), program)


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """What evaluation needs of CEL: the compiled expression, its checked form, where it was compiled."""

    environment: Any
    compiled: Any
    serialized: bytes
    tree: Node

    def given(self, values: Mapping[str, object]) -> Any:
        """Compiled with these values for their variables: CEL's binding cuts text at a NUL character."""
        return self.environment.deserialize(checked.with_constants(self.serialized, values))


def _has_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case list() | tuple():
            return any(map(_has_nul, value))
        case dict():
            return any(map(_has_nul, value)) or any(map(_has_nul, value.values()))
    return False


@lru_cache(maxsize=2)
def _cut(program: _Program) -> tuple[checked.Parts, dict[int, int]]:
    """The checked form, ready to be cut, and the number of each node of the tree by its identity.

    Those of the last programs are kept: an engine takes one part after another of the same expression, and
    there may be a thousand.
    """
    ordinals = {id(node): ordinal for ordinal, node in enumerate(walk(program.tree))}
    return checked.Parts(program.serialized), ordinals


class Scope:
    """The variables that expressions of one rulebase may read. Equal texts are compiled once: rulebases
    repeat themselves. For one thread at a time."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """`variables`: qualified name -> CEL type name (`int`, `list<string>`, `map<string, bool>`).

        Raises ValueError for a type name that CEL does not have.
        """
        self._names = frozenset(variables)
        self._known = sorted({*variables, *_FUNCTIONS})
        self._suggestions = 0
        self.size = 0
        """Nodes of all that was compiled, as CEL counts them."""
        self._compiled: dict[str, tuple[Node, frozenset[str], _Program]] = {}
        types = {name: _cel_type(type_) for name, type_ in variables.items()}
        self._environment = cel.NewEnv(variables=types)

    def compile(self, text: str, position: Position, *, expect: str | None = None) -> Expression:
        """Parse and check `text`.

        Raises ExpressionError with every fault and its line and column in `text`, among them a
        result that is not of type `expect`, and a "did you mean" for an undeclared name.
        """
        found = self._compiled.get(text)
        if found is None:
            found = self._compiled[text] = self._compile(text)
        tree, reads_, program = found
        if expect is not None and tree.type != expect:
            fault = f"this must give {expect}, but gives {tree.type}"
            raise ExpressionError(text, ((1, 1, fault),))
        return Expression(text, position, tree.type, tree, reads_, program)

    def _compile(self, text: str) -> tuple[Node, frozenset[str], _Program]:
        if len(text) > MAX_LENGTH:
            fault = f"an expression may have {MAX_LENGTH} characters, this one has {len(text)}: split it"
            raise ExpressionError(text, ((1, 1, fault),))
        try:
            compiled = self._environment.compile(text)
            serialized = compiled.serialize()
            parsed = checked.parse(serialized)
            tree = checked.tree(parsed, self._names)
            growth = checked.growth(parsed)
        except DecodeError:
            fault = "this expression is nested too deeply: name parts of it as behaviours or scenes"
            raise ExpressionError(text, ((1, 1, fault),)) from None
        except (RuntimeError, TypeError, UnicodeError) as error:
            raise ExpressionError(text, tuple(self._faults(text, str(error)))) from None
        if faults := tuple(
            _presence_fault(text, *each) for each in checked.presence_tests(parsed, text, self._names)
        ):
            raise ExpressionError(text, tuple(sorted(faults)))
        if growth > MAX_GROWTH:
            fault = "its comprehensions multiply what they are given too often: use their variables less"
            raise ExpressionError(text, ((1, 1, fault),))
        self.size += len(parsed.type_map)
        return tree, reads(tree), _Program(self._environment, compiled, serialized, tree)

    def _faults(self, text: str, report: str) -> Iterator[tuple[int, int, str]]:
        """CEL's report, taken apart: (line, column, message), sorted, without repetition."""
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
            return iter([(1, 1, "this is not valid Unicode: remove the lone surrogate")])
        found_faults = [tuple(map(str, each)) for each in _FAULT.findall(report)]
        # What does not fit a thing that is unknown is no fault of its own.
        faults = {self._fault(text, *each) for each in found_faults if "*error*" not in each[2]}
        # CEL's report on such a thing is about the type that it takes it for.
        faults |= {
            _presence_fault(text, found.start(), found[1])
            for found in _PRESENCE.finditer(text)
            if faults and "." in found[1] and found[1] in self._names
        }
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
        if "input '<EOF>'" in message:
            return line, column, "the expression ends too early"
        message = _EXPECTED.sub("", message)
        if overload := _NO_OVERLOAD.match(message):
            operator = overload[1].strip("_@")
            operands = _in_the_language(overload[2])
            message = f"'{operator}' cannot be applied to ({operands}): {_remedy(operands)}"
        return line, column, message

    def _suggestion(self, name: str) -> str:
        self._suggestions += 1
        if self._suggestions > _MAX_SUGGESTIONS or len(name) > _MAX_SUGGESTED_LENGTH:
            return ""
        close = difflib.get_close_matches(name, self._known, n=1, cutoff=0.6)
        return f": did you mean '{close[0]}'?" if close else ""


def _presence_fault(text: str, at: int, name: str) -> tuple[int, int, str]:
    fault = (
        f"has() tells whether a map has a key, not whether '{name}' is known: leave it out, "
        "for a condition on missing data is unknown by itself"
    )
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), fault


def _in_the_language(types: str) -> str:
    """CEL's names of types, in the brackets of the language: `list(int)` is `list<int>`."""
    types = types.replace("google.protobuf.Duration", "duration")
    types = types.replace("google.protobuf.Timestamp", "timestamp")
    while (plain := _BRACKETS.sub(r"\1<\2>", types)) != types:
        types = plain
    return types


def _remedy(operands: str) -> str:
    """What to write instead of an operation on operands of these types."""
    types = set(operands.split(", "))
    if "null_type" in types:
        return "nothing is ever null, what is missing is unknown"
    if len(types) > 1 and types <= {"int", "uint", "double"}:
        return "convert one of them, with int(), uint() or double()"
    return "the types must fit exactly"


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
