"""The network engine: one generated function an event type, definitions computed on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.network.codegen import Generator, Translator
from opportune_rulebase.network.conditions import open_definitions
from opportune_rulebase.network.facts import usable
from opportune_rulebase.network.matcher import matcher_source

# What operations on values of other types than declared can raise in generated source.
_MISFITS = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError)

_Matcher = Callable[[Facts], Sequence[Campaign]]
_Evaluator = Callable[[Facts], object]


class NetworkEngine:
    """An `Engine` whose cost an event hardly grows with the number of rules.

    Facts hold values of their declared types: whoever admits events and context sees to it. A value that
    does not fit and cannot be used counts as missing; it never makes the engine raise.
    """

    def __init__(self, rulebase: Rulebase) -> None:
        """Compiles everything that events need; other expressions are compiled when first asked for."""
        self._rulebase = rulebase
        self._unknowns: dict[str, int] = {}
        self._generator = Generator(rulebase, _counting(self._unknowns))
        self._evaluators: dict[Expression, _Evaluator] = {}
        self._tests: dict[Expression, Callable[[Facts], bool]] = {}
        self._sources: dict[str, str] = {}
        self._matchers: dict[str, _Matcher] = {}
        self._define_definitions()
        self._opened = open_definitions(rulebase.definitions)
        for event_type in rulebase.vocabulary.events:
            self._define_matcher(event_type)

    def match(self, facts: Facts) -> Sequence[Campaign]:
        """See `Engine.match`."""
        matcher = self._matchers.get(facts.type)
        if matcher is None:
            return ()
        try:
            return matcher(facts)
        except _MISFITS:
            return matcher(usable(facts, self._rulebase.vocabulary, self._rulebase.metrics))

    def truth(self, expression: Expression, facts: Facts) -> Truth:
        """See `Engine.truth`."""
        result = self.value(expression, facts)
        return result if isinstance(result, bool) else None

    def test(self, expression: Expression) -> Callable[[Facts], bool]:
        """See `Engine.test`. What misfits is handled in the source: a call less for each event."""
        tested = self._tests.get(expression)
        if tested is None:
            tested = self._tests[expression] = self._test(expression)
        return tested

    def _test(self, expression: Expression) -> Callable[[Facts], bool]:
        translator = Translator(self._generator, expression)
        name = self._generator.fresh("test")
        otherwise = self._generator.bind(lambda facts: self.truth(expression, facts) is True, "again")
        body = [
            "try:",
            f" return True if {translator.true(expression.tree)} else False",
            f"except {self._generator.bind(_MISFITS, 'misfits')}:",
            f" return {otherwise}(X)",
        ]
        self._generator.define("test", "\n".join([*self._generator.lines_of(name, body), ""]))
        tested: Callable[[Facts], bool] = self._generator.function(name)
        return tested

    def value(self, expression: Expression, facts: Facts) -> object:
        """See `Engine.value`."""
        evaluator = self._evaluators.get(expression)
        if evaluator is None:
            evaluator = self._evaluators[expression] = self._evaluator(expression)
        try:
            return evaluator(facts)
        except _MISFITS:
            return evaluator(usable(facts, self._rulebase.vocabulary, self._rulebase.metrics))

    def unknowns(self) -> Mapping[str, int]:
        """See `Engine.unknowns`. Names are qualified.

        A variable counts each time that it is looked up and missing; a metric only if what is known of it
        does not suffice. A definition counts once an event, when it is computed and comes out unknown.
        Matching asks the telling conditions first, stops a campaign at the first that does not hold, and
        looks up once what several campaigns ask. So this says what stood in the way, not all that was
        missing; and a definition whose conditions were tested one by one counts by its variables only.
        """
        return dict(self._unknowns)

    def close(self) -> None:
        """Forget everything compiled. See `Engine.close`.

        Generated functions and their namespace refer to each other: cut here, so that what the engine holds
        is given back at once. The collector would come late, and walks all that lives to find it.
        """
        self._matchers.clear()
        self._evaluators.clear()
        self._tests.clear()
        self._generator.names.clear()

    def source(self, event_type: str) -> str:
        """The generated source for an event type, for people; "" gives that of the definitions.

        Raises KeyError for an event type that the vocabulary does not have.
        """
        return self._sources[event_type]

    def _define_definitions(self) -> None:
        sources = []
        for name, definition in self._rulebase.definitions.items():
            truth = Translator(self._generator, definition.when).structure(definition.when.tree)
            lines = self._generator.lines_of(
                self._generator.definitions[name],
                [
                    f"if {name!r} in X.memo: return X.memo[{name!r}]",
                    f"t = X.memo[{name!r}] = {truth}",
                    f"if t is None: miss({name!r})",
                    "return t",
                ],
            )
            sources.append("\n".join([*lines, ""]))
            self._generator.define(
                name, sources[-1]
            )  # one by one: other threads wait while one is compiled
        self._sources[""] = "".join(sources)

    def _define_matcher(self, event_type: str) -> None:
        campaigns = self._rulebase.campaigns.values()
        triggered = sorted(
            (each for each in campaigns if event_type in each.on), key=lambda each: each.name
        )
        if not triggered:
            self._sources[event_type] = ""
            return
        name = self._generator.fresh("match")
        source = self._sources[event_type] = matcher_source(self._generator, name, triggered, self._opened)
        self._generator.define(f"campaigns on {event_type}", source)
        self._matchers[event_type] = self._generator.function(name)

    def _evaluator(self, expression: Expression) -> _Evaluator:
        translator = Translator(self._generator, expression)
        whole = translator.structure if expression.type == "bool" else translator.value
        name = self._generator.fresh("value")
        lines = self._generator.lines_of(name, [f"return {whole(expression.tree)}"])
        self._generator.define("expression", "\n".join([*lines, ""]))
        evaluator: _Evaluator = self._generator.function(name)
        return evaluator


def _counting(unknowns: dict[str, int]) -> Callable[[str], None]:
    """Notes a missing name. No method, for the engine would then hold itself."""

    def miss(name: str) -> None:
        unknowns[name] = unknowns.get(name, 0) + 1

    return miss
