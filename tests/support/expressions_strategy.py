"""Random well-typed expressions and facts over one vocabulary that has a bit of everything."""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from opportune_rulebase.engine import Facts
from opportune_rulebase.model import Attribute, Calendar, Place
from support.rulebases import DAY_US, attribute, make_facts

EVENTS = {
    "sms_sent": {
        "amount": "int",
        "peer": "string",
        "ratio": "double",
        "first": "bool",
        "tags": "list<int>",
        "callee": "subscriber",
        "read_at": "timestamp",
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
    "born": "date",
}
TERMINAL = {"mms": "bool"}
METRICS = {
    "sms_7d": {"of": ("sms_sent",), "days": 7},
    "spend": {"of": ("sms_sent",), "value": "ratio", "last_us": 3_600_000_000},
    "net": {"of": ("sms_sent",), "value": "amount", "days": 3, "bound": "none"},
    "least": {"of": ("sms_sent",), "value": "amount", "kind": "min"},
    "lowest": {"of": ("sms_sent",), "value": "ratio", "kind": "min"},
    "most": {"of": ("sms_sent",), "value": "amount", "kind": "max"},
    "lately": {"of": ("sms_sent",), "value": "peer", "kind": "latest"},
    "flagged": {"of": ("sms_sent",), "value": "first", "kind": "latest"},
}
DEFINITIONS = {
    "behaviour.young": "sub.age < 25",
    "behaviour.keen": "behaviour.young && metric.sms_7d >= 3 && sub.vip",
    "scene.evening": "now.getHours(zone) >= 19 && now.getHours(zone) < 22",
    "scene.either": "scene.evening || !(sub.brand == 'mzone' || event.amount > 5)",
    "scene.known": "behaviour.mined || fact.told && calendar.workday && metric.least < 3",
}
FACTS = {"told": {"on": ("sms_sent",)}}
IMPORTED = {"behaviour.mined": 30 * DAY_US}
RULEBASE = {
    "events": EVENTS,
    "subscriber": SUBSCRIBER,
    "terminal": TERMINAL,
    "metrics": METRICS,
    "definitions": DEFINITIONS,
    "facts": FACTS,
    "imported": IMPORTED,
}
"""What `make_rulebase` needs."""

INTS = (-(2**63), -7, -1, 0, 1, 2, 3, 5, 10, 2**31, 2**53 + 1, 2**63 - 1)
DOUBLES = (-1e308, -1.5, -0.0, 0.0, 0.1, 1.0, 2.5, 9007199254740992.0, 9.3e18, 1e308)
STRINGS = (
    *("", "a", "ab", "b", "é", "e\u0301", "𝒳", "\uffff", "mzone", "gotone", "'\"\\\n", "x')\nimport os #"),
    *("7", "-1.5", "true", "NaN", "2026-11-20T04:00:00Z", "90s", "Asia/Kolkata", "a\0b", "\0"),
)
ZONES = (
    *("Asia/Kolkata", "America/New_York", "Pacific/Apia", "UTC", "+05:30", "-00:30", "+14:00"),
    *("05:30", "Nowhere/Such", "", "+99:00", "8"),
)

_LEAVES = {
    "int": ("event.amount", "sub.age", "peer.age", *(f"metric.{each}" for each in ("sms_7d", "net"))),
    "double": ("event.ratio", "sub.score", "peer.score", "metric.spend", "metric.lowest"),
    "string": (
        *("event.peer", "event.callee", "sub.brand", "peer.brand", "sub.born", "event.type"),
        *("place.name", "zone", "metric.lately", "first.peer"),
    ),
    "bool": (
        *("event.first", "sub.vip", "peer.vip", "terminal.mms", *DEFINITIONS, *IMPORTED, "fact.told"),
        *("calendar.workday", "calendar.holiday", "metric.flagged", "previous.first"),
    ),
    "timestamp": ("now", "sub.ends", "peer.ends", "event.read_at", "previous.read_at"),
    "list<int>": ("event.tags", "[]"),
    "list<string>": ("sub.products", "place.categories", "peer.products"),
    "map<string, bool>": ("sub.flags", "peer.flags"),
    "list<double>": ("[event.ratio]",),
}
_LEAVES["int"] += ("metric.least", "metric.most", "first.amount", "previous.amount")


def quoted(text: str) -> str:
    """A string literal of the language."""
    return "'" + "".join(f"\\U{ord(character):08x}" for character in text) + "'"


_LITERALS = {
    "uint": ("0u", "1u", "3u", "18446744073709551615u"),
    "bytes": ("b''", "b'a'", "b'ab'", "b'\\xff'", "b'\\303\\251'"),
    "bool": ("true", "false"),
    "timestamp": tuple(
        f"timestamp('{each}')"
        for each in (
            *("2026-11-20T04:00:00Z", "1970-01-01T00:00:00.5+08:00", "0001-01-01T00:00:00Z"),
            *("9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-11-20", ""),
        )
    ),
    "duration": tuple(
        f"duration('{each}')"
        for each in ("90s", "-1.5h", "0s", "240h", "1us", "9223372036s", "-9223372036s", "90", "1d", "1e3s")
    ),
    "list<int>": ("[1, 2, 3]", "[]"),
    "list<string>": ("['a', 'b']",),
    "list<double>": ("[0.5, 1.0]", "[0.0 / 0.0]"),
    "map<string, bool>": ("{'a': true, 'b': false}",),
}
_SCALARS = ("int", "double", "string", "bool", "uint", "bytes", "timestamp", "duration")
TYPES = (*_SCALARS, "list<int>", "list<string>", "list<double>", "map<string, bool>")
_GETTERS = (
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
_PATTERNS = ("^[a-m]", "a|b", "", "(", "[", "\\\\d+$", "(?i)A", "a{1001}", "\\\\pL", "(a)\\\\1")


def literals(type_: str) -> st.SearchStrategy[str]:
    if type_ == "int":
        return st.sampled_from(INTS).map(str)
    if type_ == "double":
        return st.sampled_from(DOUBLES).map(
            lambda value: f"{value:.1f}" if abs(value) < 1e9 else repr(value)
        )
    if type_ == "string":
        return st.sampled_from(STRINGS).map(quoted)
    return st.sampled_from(_LITERALS[type_])


def _joined(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda each: form.format(*each))


@cache
def _one_of(type_: str, depth: int) -> st.SearchStrategy[str]:
    leaf = literals(type_)
    if type_ in _LEAVES:
        leaf = st.one_of(st.sampled_from(_LEAVES[type_]), leaf)
    if depth == 0:
        return leaf

    def of(form: str, *types: str) -> st.SearchStrategy[str]:
        return _joined(form, *(_one_of(each, depth - 1) for each in types))

    return st.one_of(leaf, of("({} ? {} : {})", "bool", type_, type_), *_forms(type_, of))


def _forms(type_: str, of: Any) -> list[st.SearchStrategy[str]]:
    match type_:
        case "int":
            forms = [of(f"({{}} {sign} {{}})", "int", "int") for sign in "+-*/%"]
            forms += [of("-({})", "int"), of("event.tags[{}]", "int"), of("[1, 2][dyn({})]", "double")]
            forms += [
                of("size({})", each) for each in ("string", "bytes", "list<int>", "map<string, bool>")
            ]
            forms += [of("{}.size()", "string"), of("size({})", "list<double>")]
            forms += [of("int({})", each) for each in ("double", "string", "uint", "timestamp", "int")]
            forms += [of(f"({{}}).{each}()", "timestamp") for each in _GETTERS]
            forms += [st.sampled_from((f"now.{each}(zone)", f"now.{each}()")) for each in _GETTERS]
            zones = st.sampled_from(ZONES).map(quoted)
            forms += [_joined(f"({{}}).{each}({{}})", of("{}", "timestamp"), zones) for each in _GETTERS]
            forms += [of("now.getHours({})", "string")]
            forms += [of(f"({{}}).{each}()", "duration") for each in _GETTERS[-4:]]
        case "double":
            forms = [of(f"({{}} {sign} {{}})", "double", "double") for sign in "+-*/"]
            forms += [of("-({})", "double")]
            forms += [of("double({})", each) for each in ("int", "string", "uint", "double")]
        case "string":
            forms = [of("({} + {})", "string", "string"), of("sub.products[{}]", "int")]
            forms += [of("string({})", each) for each in _SCALARS]
        case "uint":
            forms = [of(f"({{}} {sign} {{}})", "uint", "uint") for sign in "+-*/%"]
            forms += [of("uint({})", each) for each in ("int", "double", "string", "uint")]
        case "bytes":
            forms = [of("({} + {})", "bytes", "bytes"), of("bytes({})", "string")]
        case "timestamp":
            forms = [of(f"({{}} {sign} {{}})", "timestamp", "duration") for sign in "+-"]
            forms += [of("timestamp({})", each) for each in ("int", "string", "timestamp")]
        case "duration":
            forms = [of(f"({{}} {sign} {{}})", "duration", "duration") for sign in "+-"]
            forms += [of("({} - {})", "timestamp", "timestamp"), of("duration({})", "string")]
        case "map<string, bool>":
            forms = [of("{{{}: {}, {}: {}}}", "string", "bool", "string", "bool")]
        case "bool":
            forms = _truths(of)
        case _:
            element = type_[5:-1]
            forms = [of("[{}, {}]", element, element), of("({} + {})", type_, type_)]
            forms += [of("{}.map(x, {} + x)", type_, element), of("{}.filter(x, x > {})", type_, element)]
            forms += [of("{}.map(x, {}, x)", type_, "bool")]
    return forms


def _truths(of: Any) -> list[st.SearchStrategy[str]]:
    forms = [of("({} && {})", "bool", "bool"), of("({} || {})", "bool", "bool"), of("!({})", "bool")]
    for each in _SCALARS:
        forms += [of(f"({{}} {sign} {{}})", each, each) for sign in ("<", "<=", ">", ">=")]
    for each in TYPES:
        forms += [of(f"({{}} {sign} {{}})", each, each) for sign in ("==", "!=")]
        forms += [of("({} in [{}, {}])", each, each, each)]
        forms += [of("(type({}) == type({}))", each, "bool")]
    for one in ("int", "double", "uint", "string"):
        for other in ("int", "double", "bool"):
            forms += [of(f"(dyn({{}}) {sign} {{}})", one, other) for sign in ("<", ">=", "==", "!=")]
            forms += [of("({} in dyn([{}]))", one, other)]
    forms += [
        of(f"({{}}.{name}({{}}))", "string", "string") for name in ("startsWith", "endsWith", "contains")
    ]
    patterns = st.sampled_from(_PATTERNS).map(lambda each: f"'{each}'")
    forms += [
        _joined("({}.matches({}))", of("{}", "string"), patterns),
        of("{}.matches({})", *["string"] * 2),
    ]
    forms += [
        of(f"({{}} in {each})", "string") for each in ("sub.products", "place.categories", "sub.flags")
    ]
    forms += [of("({} in event.tags)", "int"), of("sub.flags[{}]", "string"), of("bool({})", "string")]
    forms += [of("{}[{}]", "map<string, bool>", "string"), of("bool({})", "bool")]
    for macro in ("exists", "all", "exists_one"):
        forms += [
            of(f"sub.products.{macro}(p, p == {{}})", "string"),
            of(f"{{}}.{macro}(x, x > {{}})", "list<int>", "int"),
            of(f"{{}}.{macro}(x, 1.0 / x > {{}} || {{}})", "list<double>", "double", "bool"),
            of(f"{{}}.{macro}(k, {{}})", "map<string, bool>", "bool"),
        ]
    forms.append(
        st.sampled_from(
            ("sub.flags.a", "has(sub.flags.a)", "has(peer.flags.a)", "sub.brand.matches('^[a-m]')")
        )
    )
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
    instants = st.integers(0, 2**51) | st.sampled_from((-(2**62), 2**62, -62135596800_000_000))
    event = {
        "amount": ints,
        "peer": strings,
        "ratio": doubles,
        "first": st.booleans(),
        "tags": st.lists(ints, max_size=3),
        "callee": strings,
        "read_at": instants,
    }
    sub = {
        "age": ints,
        "brand": strings,
        "score": doubles,
        "vip": st.booleans(),
        "products": st.lists(strings, max_size=3),
        "flags": st.dictionaries(st.sampled_from(("a", "b", "")), st.booleans()),
        "ends": instants,
        "born": st.sampled_from(("1990-02-28", "")),
    }
    known = {
        "sms_7d": st.sampled_from((0, 1, 3, 10)),
        "spend": st.sampled_from((0.0, 1.0, 2.5)),
        "net": ints,
        "least": ints,
        "lowest": st.sampled_from((-1.5, 0.0, 2.5)),
        "most": ints,
        "lately": strings,
        "flagged": st.booleans(),
    }
    nothing = st.just((None, False))
    figures = st.fixed_dictionaries(
        {
            # Only what is not counted or summed may be covered and yet have no figure.
            name: st.tuples(value, st.booleans())
            | (st.tuples(st.none(), st.booleans()) if "kind" in METRICS[name] else nothing)
            for name, value in known.items()
        }
    )
    earlier = {f"first.{name}": each for name, each in event.items()}
    earlier |= {f"previous.{name}": each for name, each in event.items()}
    return st.builds(
        make_facts,
        st.sampled_from(sorted(EVENTS)),
        _some(event),
        sub=_some(sub | {"behaviour.mined": st.booleans()}),
        terminal=_some({"mms": st.booleans()}),
        place=st.none() | st.builds(Place, strings, st.just(""), st.lists(strings, max_size=2).map(tuple)),
        metrics=figures,
        now_us=st.integers(0, 2**51),
        zone=st.sampled_from(
            [ZoneInfo(key) for key in ("Asia/Shanghai", "Europe/London", "America/St_Johns", "UTC")]
        ),
        peer=_some(sub),
        facts=_some({"told": st.booleans()}),
        calendar=st.sampled_from(
            (Calendar(), Calendar("XX", first=date(1990, 1, 1), last=date(2010, 1, 1)))
        ),
        others=_some(earlier),
    )
