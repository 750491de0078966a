"""Random well-typed expressions and facts over one vocabulary that has a bit of everything."""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from opportune_rulebase.engine import Facts
from opportune_rulebase.model import Attribute, Place
from support.rulebases import attribute, make_facts

EVENTS = {
    "sms_sent": {
        "amount": "int",
        "peer": "string",
        "ratio": "double",
        "first": "bool",
        "tags": "list<int>",
    },
    "power_on": {"amount": "int"},
}
SUBSCRIBER: dict[str, str | Attribute] = {
    "age": "int",
    "brand": attribute("brand", "string", default="gotone"),
    "score": "double",
    "vip": "bool",
    "products": "list<string>",
    "flags": "map<string, bool>",
    "ends": "timestamp",
}
TERMINAL = {"mms": "bool"}
METRICS = {
    "sms_7d": {"of": ("sms_sent",), "days": 7},
    "spend": {"of": ("sms_sent",), "value": "ratio", "last_us": 3_600_000_000},
    "net": {"of": ("sms_sent",), "value": "amount", "days": 3, "non_negative": False},
}
DEFINITIONS = {
    "behaviour.young": "sub.age < 25",
    "behaviour.keen": "behaviour.young && metric.sms_7d >= 3 && sub.vip",
    "scene.evening": "now.getHours(zone) >= 19 && now.getHours(zone) < 22",
    "scene.either": "scene.evening || !(sub.brand == 'mzone' || event.amount > 5)",
}

INTS = (-(2**63), -7, -1, 0, 1, 2, 3, 5, 10, 2**31, 2**63 - 1)
DOUBLES = (-1e308, -1.5, -0.0, 0.0, 0.1, 1.0, 2.5, 1e308)
STRINGS = ("", "a", "ab", "b", "é", "𝒳", "\uffff", "mzone", "gotone", "'\"\\\n", "x')\nimport os #")

_LEAVES = {
    "int": ("event.amount", "sub.age", "metric.sms_7d", "metric.net"),
    "double": ("event.ratio", "sub.score", "metric.spend"),
    "string": ("event.peer", "sub.brand", "event.type", "place.name", "zone"),
    "bool": ("event.first", "sub.vip", "terminal.mms", *DEFINITIONS),
}


def quoted(text: str) -> str:
    """A string literal of the language."""
    return "'" + "".join(f"\\U{ord(character):08x}" for character in text) + "'"


def literals(type_: str) -> st.SearchStrategy[str]:
    return {
        "int": st.sampled_from(INTS).map(str),
        "double": st.sampled_from(DOUBLES).map(
            lambda value: f"{value:.1f}" if abs(value) < 1e9 else repr(value)
        ),
        "string": st.sampled_from(STRINGS).map(quoted),
        "bool": st.sampled_from(("true", "false")),
    }[type_]


def _joined(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda each: form.format(*each))


@cache
def _one_of(type_: str, depth: int) -> st.SearchStrategy[str]:
    leaf = st.one_of(st.sampled_from(_LEAVES[type_]), literals(type_))
    if depth == 0:
        return leaf
    same, truth = _one_of(type_, depth - 1), _one_of("bool", depth - 1)
    forms = [leaf, _joined("({} ? {} : {})", truth, same, same)]
    if type_ == "int":
        forms += [_joined(f"({{}} {sign} {{}})", same, same) for sign in "+-*/%"]
        forms += [
            _joined("-({})", same),
            _joined("size({})", _one_of("string", depth - 1)),
            _joined("event.tags[{}]", same),
            st.sampled_from(
                ("sub.products.size()", "size(sub.flags)", "sub.ends.getHours()", "size(place.categories)")
            ),
        ]
        forms += [
            st.sampled_from((f"now.{getter}(zone)", f"now.{getter}()"))
            for getter in (
                "getFullYear",
                "getMonth",
                "getDate",
                "getDayOfMonth",
                "getDayOfWeek",
                "getDayOfYear",
            )
        ]
        forms.append(st.sampled_from(("now.getHours(zone)", "now.getMinutes(zone)", "now.getSeconds()")))
    elif type_ == "double":
        forms += [_joined(f"({{}} {sign} {{}})", same, same) for sign in "+-*/"]
        forms += [_joined("-({})", same), _joined("double({})", _one_of("int", depth - 1))]
    elif type_ == "string":
        forms += [_joined("({} + {})", same, same), _joined("sub.products[{}]", _one_of("int", 0))]
    else:
        forms += _truths(depth)
    return st.one_of(forms)


def _truths(depth: int) -> list[st.SearchStrategy[str]]:
    truth = _one_of("bool", depth - 1)
    forms = [
        _joined("({} && {})", truth, truth),
        _joined("({} || {})", truth, truth),
        _joined("!({})", truth),
        _joined("({} == {})", truth, truth),
    ]
    for type_ in ("int", "double", "string"):
        side = _one_of(type_, depth - 1)
        forms += [_joined(f"({{}} {sign} {{}})", side, side) for sign in ("<", "<=", ">", ">=", "==", "!=")]
        forms.append(_joined("({} in [{}, {}])", side, side, literals(type_)))
    text = _one_of("string", depth - 1)
    forms += [
        _joined(f"({{}}.{name}({{}}))", text, text) for name in ("startsWith", "endsWith", "contains")
    ]
    forms += [
        _joined("({} in sub.products)", text),
        _joined("({} in place.categories)", text),
        _joined("({} in event.tags)", _one_of("int", depth - 1)),
        _joined("({} in sub.flags)", text),
        _joined("sub.flags[{}]", text),
        _joined("sub.products.exists(p, p == {})", text),
        st.sampled_from(
            ("sub.flags.a", "has(sub.flags.a)", "now < sub.ends", "sub.brand.matches('^[a-m]')")
        ),
    ]
    return forms


def expressions(type_: str = "bool", depth: int = 3) -> st.SearchStrategy[str]:
    """Texts that compile to `type_`."""
    return _one_of(type_, depth)


def _some(values: dict[str, st.SearchStrategy[object]]) -> st.SearchStrategy[dict[str, object]]:
    """Each key present, absent or null."""
    return st.fixed_dictionaries({}, optional={name: st.none() | value for name, value in values.items()})


def facts() -> st.SearchStrategy[Facts]:
    """Facts of the declared types, with holes."""
    ints, strings = st.sampled_from(INTS), st.sampled_from(STRINGS)
    doubles = st.sampled_from((*DOUBLES, float("nan"), float("inf"), -float("inf"), 1, 2**53 + 1))
    event = {
        "amount": ints,
        "peer": strings,
        "ratio": doubles,
        "first": st.booleans(),
        "tags": st.lists(ints, max_size=3),
    }
    sub = {
        "age": ints,
        "brand": strings,
        "score": doubles,
        "vip": st.booleans(),
        "products": st.lists(strings, max_size=3),
        "flags": st.dictionaries(st.sampled_from(("a", "b", "")), st.booleans()),
        "ends": st.integers(0, 2**51),
    }
    known = {
        "sms_7d": st.sampled_from((0, 1, 3, 10)),
        "spend": st.sampled_from((0.0, 1.0, 2.5)),
        "net": ints,
    }
    figures = st.fixed_dictionaries(
        {name: st.tuples(value, st.booleans()) | st.just((None, False)) for name, value in known.items()}
    )
    return st.builds(
        make_facts,
        st.sampled_from(sorted(EVENTS)),
        _some(event),
        sub=_some(sub),
        terminal=_some({"mms": st.booleans()}),
        place=st.none() | st.builds(Place, strings, st.just(""), st.lists(strings, max_size=2).map(tuple)),
        metrics=figures,
        now_us=st.integers(0, 2**51),
        zone=st.sampled_from(
            [ZoneInfo(key) for key in ("Asia/Shanghai", "Europe/London", "America/St_Johns", "UTC")]
        ),
    )
