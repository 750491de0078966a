"""Expressions as Python source, in three modes, each linear in the size of the expression.

    true(e)     truthy if e is definitely true       (may stop at the first unknown)
    false(e)    truthy if e is definitely false
    value(e)    its value; None for unknown

Whatever is not known to mean exactly the same in Python is left to CEL's own evaluator, node by node.
Nothing of a rulebase becomes source except literals, by `repr`; everything else is bound to a
generated name. Python itself is given the expression's nesting, which CEL and the reader of its trees
bound well below what Python's parser takes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.expressions import Expression, Unknown
from opportune_rulebase.intervals import is_structure, metric_sides
from opportune_rulebase.model import Bound, MetricKind, Rulebase, ValueType
from opportune_rulebase.network import functions
from opportune_rulebase.network.operations import CALENDAR, READ, READ_SPACE, STRICT
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Variable
from opportune_rulebase.variables import bindings, lookup, zone_name

SCALARS = frozenset({"int", "double", "bool", "string"})
_COMPARISONS = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=", "_==_": "==", "_!=_": "!="}
_ORDER = frozenset({"_<_", "_<=_", "_>_", "_>=_"})
_READABLE = SCALARS | {ValueType.STRINGS.value, ValueType.INTS.value, ValueType.FLAGS.value}


class Generator:
    """Collects what generated source of one rulebase refers to; makes the functions.

    `names` is the namespace of the generated functions. `miss(name)` notes that a variable was needed
    and missing, and gives None.

    Sources that `reader`, `figure` and a `Translator` give stand in functions made by `lines_of`.
    """

    def __init__(self, rulebase: Rulebase, miss: Callable[[str], None]) -> None:
        self.rulebase = rulebase
        self.definitions = {name: f"d{number}" for number, name in enumerate(rulebase.definitions)}
        self.names: dict[str, object] = {
            "__builtins__": {"len": len},
            "bisect_right": bisect_right,
            "miss": miss,
            "missing": functions.missing(miss),
            "from_below": functions.from_below(miss),
            "from_above": functions.from_above(miss),
            "in_order": functions.in_order,
            "nobody": functions.nobody,
            "nan": math.nan,
            "zone_name": zone_name,
        }
        for function in (
            *(functions.in_range, functions.divide_int, functions.modulo_int, functions.divide_double),
            *(functions.item, functions.as_double, functions.day_of_year),
        ):
            self.names[function.__name__] = function
        self._count = 0
        self._miss = miss
        self._comparisons: dict[tuple[str, str, bool | None], str] = {}

    def fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def bind(self, value: object, prefix: str = "k") -> str:
        """A name in the namespace that stands for `value`."""
        name = self.fresh(prefix)
        self.names[name] = value
        return name

    def literal(self, value: object) -> str:
        """Source for a value. Only for types whose `repr` is source; all others get a name."""
        if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return f"({value!r})" if isinstance(value, int | float) and value < 0 else repr(value)
        return self.bind(value)

    def define(self, title: str, source: str) -> None:
        """Execute generated source in the namespace. `title` appears in tracebacks."""
        exec(compile(source, f"<{title}>", "exec"), self.names)  # noqa: S102 - generated, literals by repr

    def lines_of(self, name: str, body: Iterable[str]) -> list[str]:
        """Source of a function of facts, from the lines of its body."""
        lines = [f" {line}" for line in body]
        looks = [" metrics = X.metrics"] if any("metrics[" in line for line in lines) else []
        return [f"def {name}(X):", *looks, *lines]

    def function(self, name: str) -> Any:
        """A function that `define` has made."""
        return self.names[name]

    def reader(self, name: str, type_: str) -> str:
        """Source that reads a variable and gives None if it is missing (and does not note that)."""
        space, _, rest = name.partition(".")
        match space:
            case "sub":
                attribute = self.rulebase.vocabulary.subscriber.get(rest)
                source = f"X.sub.get({rest!r})"
                if attribute is not None and attribute.default is not None:
                    default = self.literal(attribute.default)
                    source = f"(r if (r := {source}) is not None else {default})"
            case "metric":
                source = f"(r[0] if (r := {self.figure(name, type_)})[1] else None)"
            case "behaviour" | "scene" if name in self.definitions:
                source = f"{self.definitions[name]}(X)"
            case _:
                source = READ.get(name) or READ_SPACE.get(space, "X.others.get({0!r})").format(name, rest)
        if type_ == "double" and space != "metric":
            source = f"(None if (r := {source}) is None else r * 1.0)"
        return source

    def figure(self, name: str, type_: str) -> str:
        """Source for (value, covered) of a metric given by its qualified name."""
        source = f"metrics[{name.removeprefix('metric.')!r}](X)"
        return f"as_double({source})" if type_ == "double" else source

    def bound(self, name: str) -> Bound:
        """What is known of a variable while it is not covered: nothing, unless it is a metric."""
        metric = self.rulebase.metrics.get(name.removeprefix("metric."))
        return metric.bound if metric is not None and name.startswith("metric.") else Bound.NONE

    def may_lack(self, name: str) -> bool:
        """Whether the metric `name` may be covered and yet have no figure, nothing having been seen."""
        return self.rulebase.metrics[name].kind in (MetricKind.MIN, MetricKind.MAX, MetricKind.LATEST)

    def figure_comparison(self, name: str, function: str, positive: bool | None) -> str:
        """Name of a function that compares a figure of the metric `name`: its truth, or whether it is
        definitely what `positive` says."""
        key = (name, function, positive)
        if key not in self._comparisons:
            bound = self.rulebase.metrics[name].bound
            compare = functions.figure_comparison(function, bound, positive, self._miss, f"metric.{name}")
            self._comparisons[key] = self.bind(compare, "compare")
        return self._comparisons[key]

    def missing(self, name: str) -> str:
        """Source for a variable found missing: notes it and gives None. Definitions note it themselves."""
        return "None" if name in self.definitions else f"miss({name!r})"

    def definition(self, name: str, facts: Facts) -> Truth:
        """The truth of a definition, computed at most once an event."""
        if name in facts.memo:
            return facts.memo[name]
        result: Truth = self.function(self.definitions[name])(facts)
        return result

    def by_cel(self, expression: Expression) -> Callable[[Facts], object]:
        """A function that leaves an expression to CEL's own evaluator."""
        vocabulary, miss = self.rulebase.vocabulary, self.function("miss")

        def evaluate(facts: Facts) -> object:
            bound = bindings(facts, expression.reads, vocabulary, lambda name: self.definition(name, facts))
            result = expression.evaluate(bound)
            if not isinstance(result, Unknown):
                return result
            for name in expression.reads - bound.keys() - self.definitions.keys():
                miss(name)
            return None

        return evaluate


class Translator:
    """Source for the nodes of one expression."""

    def __init__(self, generator: Generator, expression: Expression) -> None:
        self._generator = generator
        self._expression = expression
        self._count = 0

    def _held(self) -> str:
        """A local variable for a value that is used again further on in the same source."""
        self._count += 1
        return f"t{self._count}"

    def true(self, node: Node) -> str:
        """Source for a node of the boolean structure: truthy if definitely true."""
        return self._decided(node, positive=True)

    def false(self, node: Node) -> str:
        """Source for a node of the boolean structure: truthy if definitely false."""
        return self._decided(node, positive=False)

    def _decided(self, node: Node, *, positive: bool) -> str:
        if isinstance(node, Constant):
            return repr(node.value is positive)
        if isinstance(node, Call) and is_structure(node):
            if node.function == "!_":
                return self._decided(node.args[0], positive=not positive)
            if node.function == "_?_:_":
                condition, then, otherwise = node.args
                held = self._held()
                return (
                    f"({self._decided(then, positive=positive)} if ({held} := {self.structure(condition)})"
                    f" else {held} is False and {self._decided(otherwise, positive=positive)})"
                )
            joint = "and" if (node.function == "_&&_") is positive else "or"
            left, right = (self._decided(operand, positive=positive) for operand in node.args)
            return f"({left} {joint} {right})"
        return self._atom(node, positive=positive)

    def _atom(self, node: Node, *, positive: bool | None = None) -> str:
        """An atom's truth, or whether it is definitely what `positive` says."""
        decided = self._figures(node, positive) or self._compared(node, negated=positive is False)
        if decided is not None:
            return decided
        truth = self.value(node)
        return truth if positive is None else f"({truth} is {positive})"

    def structure(self, node: Node) -> str:
        """Source for the truth of a node of the boolean structure: True, False or None."""
        if isinstance(node, Call) and is_structure(node):
            return self._joined(node, self.structure)
        return self._atom(node)

    def value(self, node: Node) -> str:
        """Source for the value of any node; None for unknown. Uncovered metrics are unknown."""
        if isinstance(node, Constant) and node.type in SCALARS:
            return self._generator.literal(node.value)
        if isinstance(node, Variable) and node.type in _READABLE:
            read = self._generator.reader(node.name, node.type)
            if node.name in self._generator.definitions:
                return read
            held = self._held()
            return f"({held} if ({held} := {read}) is not None else {self._generator.missing(node.name)})"
        if isinstance(node, ListLiteral) and all(each.type in SCALARS for each in node.items):
            if all(isinstance(each, Constant) for each in node.items):
                return self._generator.bind(
                    [each.value for each in node.items if isinstance(each, Constant)]
                )
            return self._strict(node.items, lambda operands: f"[{', '.join(operands)}]")
        if isinstance(node, Call):
            source = self._call(node)
            if source is not None:
                return source
        return self._foreign(node)

    def _foreign(self, node: Node) -> str:
        if isinstance(node, Variable):
            # A type on which nothing is computed here (timestamps): only ever handed on as it is.
            return f"{self._generator.bind(self._lookup(node.name), 'v')}(X)"
        return f"{self._generator.bind(self._generator.by_cel(self._expression.part(node)), 'c')}(X)"

    def _lookup(self, name: str) -> Callable[[Facts], object]:
        generator = self._generator

        def read(facts: Facts) -> object:
            return lookup(
                facts, name, generator.rulebase.vocabulary, lambda each: generator.definition(each, facts)
            )

        return read

    def _joined(self, node: Call, operand: Callable[[Node], str]) -> str:
        """`&&`, `||`, `!` and `?:` over three truths."""
        left, *others = (operand(each) for each in node.args)
        first, second = self._held(), self._held()
        if node.function == "!_":
            return f"(None if ({first} := {left}) is None else not {first})"
        if node.function == "_?_:_":
            then, otherwise = others
            return f"({then} if ({first} := {left}) else {otherwise} if {first} is False else None)"
        decisive, other = (False, True) if node.function == "_&&_" else (True, False)
        return (
            f"({decisive} if ({first} := {left}) is {decisive} or ({second} := {others[0]}) is {decisive}"
            f" else {other} if {first} is {other} and {second} is {other} else None)"
        )

    def _call(self, node: Call) -> str | None:
        if is_structure(node) or (node.function == "_?_:_" and node.type in _READABLE):
            return self._joined(node, self.value)
        if node.function in _COMPARISONS:
            return self._compared(node)
        if node.function in CALENDAR:
            return self._calendar(node)
        if len(node.overloads) != 1 or node.type not in SCALARS:
            return None
        if not all(operand.type in _READABLE or isinstance(operand, ListLiteral) for operand in node.args):
            return None
        if node.overloads == ("in_list",):
            # Doubles are left to CEL: Python finds a NaN in a list that holds the same object.
            element = node.args[0].type
            if element == "double" or element not in SCALARS or node.args[1].type != f"list<{element}>":
                return None
            return self._strict(node.args, lambda operands: f"({operands[0]} in {operands[1]})")
        template = STRICT.get(node.overloads[0])
        if template is None:
            return None
        return self._strict(node.args, lambda operands: f"({template.format(*operands)})")

    def _compared(self, node: Node, *, negated: bool = False) -> str | None:
        """A comparison of two scalars of one type; None if it is not one."""
        if not isinstance(node, Call) or node.function not in _COMPARISONS:
            return None
        types = {operand.type for operand in node.args}
        if len(types) != 1 or not types <= SCALARS:
            return None
        sign = _COMPARISONS[node.function]
        form = f"not {{}} {sign} {{}}" if negated else f"{{}} {sign} {{}}"
        return self._strict(node.args, lambda operands: f"({form.format(*operands)})")

    def _calendar(self, node: Call) -> str | None:
        receiver, *zone = node.args
        if receiver != Variable("now", "timestamp"):
            return None
        if not zone:
            return f"({CALENDAR[node.function].format('X.now')})"
        if zone == [Variable("zone", "string")]:
            return f"({CALENDAR[node.function].format('X.local')})"
        return None

    def _strict(self, operands: Iterable[Node], body: Callable[[list[str]], str]) -> str:
        """`body` over the operands' values, None as soon as one of them is unknown."""
        given: list[str] = []
        guards: list[tuple[str, str, str]] = []
        for operand in operands:
            if isinstance(operand, Constant) and operand.type in SCALARS:
                given.append(self._generator.literal(operand.value))
                continue
            held = self._held()
            if isinstance(operand, Variable) and operand.type in _READABLE:
                read = self._generator.reader(operand.name, operand.type)
                guards.append((held, read, self._generator.missing(operand.name)))
            else:
                guards.append((held, self.value(operand), "None"))
            given.append(held)
        source = body(given)
        for held, read, otherwise in reversed(guards):
            source = f"({source} if ({held} := {read}) is not None else {otherwise})"
        return source

    def _figures(self, node: Node, positive: bool | None) -> str | None:
        """An atom that compares a bare metric of which something is known before it is covered, by the rule
        of `intervals`; None if it is no such thing."""
        sides = [
            each
            for each in metric_sides(node)
            if self._generator.bound(f"metric.{each[0]}") is not Bound.NONE
        ]
        attempts = [self._figure(*side, node, positive) for side in sides]
        if len(attempts) < 2:
            return attempts[0] if attempts else None
        first = self._held()
        return f"({first} if ({first} := {attempts[0]}) is not None else {attempts[1]})"

    def _figure(self, name: str, function: str, other: Node, node: Node, positive: bool | None) -> str:
        generator = self._generator
        assert isinstance(node, Call)  # noqa: S101 - for the type checker
        figure = generator.figure(f"metric.{name}", node.args[0].type)
        compare = generator.figure_comparison(name, function, positive)
        if not isinstance(other, Constant):
            against = self._held()
            return (
                f"(None if ({against} := {self.value(other)}) is None else {compare}({figure}, {against}))"
            )
        constant = self.value(other)
        if function not in _ORDER:
            return f"{compare}({figure}, {constant})"
        held = self._held()
        known = f"{'not ' if positive is False else ''}{held}[0] {_COMPARISONS[function]} {constant}"
        lacks = f" and {held}[0] is not None" if generator.may_lack(name) else ""
        # No call if it is covered.
        return f"({known} if ({held} := {figure})[1]{lacks} else {compare}({held}, {constant}))"
