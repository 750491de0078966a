"""Rulebases that mean harm: each does with few bytes, or within the bounds, what once cost much.

Run as a program with the name of one, it loads that and prints what came of it, so that a test can give it
a process of its own: the codes of the problems, and the most memory that it held.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from support.workbooks import raw_workbook

Files = dict[str, bytes]

BASE: Mapping[str, bytes] = {
    "rulebase.yaml": b"rulebase: hostile\ntime_zone: UTC\n",
    "vocabulary.yaml": b"events: {called: {attributes: {seconds: int, topic: string}}}\n"
    b"subscriber: {age: int, name: string, numbers: list<int>}\n"
    b"channels: {sms: {mode: automatic}}\nproducts: {alert: {}}\n",
    "campaigns/a.yaml": b"{campaign: a, product: alert, on: called, mode: automatic, channels: sms, "
    b"content: {sms: hello}}\n",
}


def campaigns(count: int, a_file: int = 500, **keys: Callable[[int], str]) -> Files:
    """Campaigns with these keys, beside what each must have."""
    usual = {
        "product": "alert",
        "on": "called",
        "mode": "automatic",
        "channels": "sms",
        "content": "{sms: x}",
    }
    texts = (
        ", ".join(
            [f"campaign: c{number}"]
            + [
                f"{key}: {value}"
                for key, value in (usual | {k: v(number) for k, v in keys.items()}).items()
            ]
        )
        for number in range(count)
    )
    return documents((f"{{{text}}}" for text in texts), a_file)


def documents(texts: Iterable[str], a_file: int = 500) -> Files:
    """YAML documents in files under campaigns/."""
    lines = list(texts)
    return {
        f"campaigns/f{start:06}.yaml": "\n---\n".join(lines[start : start + a_file]).encode()
        for start in range(0, len(lines), a_file)
    }


def definitions(conditions: Iterable[str]) -> Files:
    """behaviours.yaml with behaviours d0, d1 ... of these conditions."""
    lines = (f'  d{number}: {{when: "{condition}"}}' for number, condition in enumerate(conditions))
    return {"behaviours.yaml": "\n".join(["behaviours:", *lines, ""]).encode()}


def behaviours(section: str, lines: Iterable[str]) -> Files:
    return {"behaviours.yaml": "\n".join([f"{section}:", *(f"  {line}" for line in lines), ""]).encode()}


def template(keys: str, campaigns_like_it: int) -> Files:
    """One template, and very many short campaigns that are like it."""
    whole = f"{{template: t, product: alert, on: called, mode: automatic, channels: sms, {keys}}}"
    return documents(f"{{campaign: c{number}, like: t}}" for number in range(campaigns_like_it)) | {
        "campaigns/t.yaml": whole.encode()
    }


def table(rows: int, cell: str) -> Files:
    header = ",".join(["behaviour", *(f"e{number}" for number in range(199))])
    lines = (",".join([f"d{row}", *([cell] * 199)]) for row in range(rows))
    return {"matrix.csv": "\n".join([header, *lines, ""]).encode()}


_LONG_LIST = ",".join(["1"] * 4_900)
_150 = range(150)
_HUNDRED = f"[{','.join(['1'] * 100)}]"

CASES: Mapping[str, Callable[[], Files]] = {
    # YAML
    "billion-laughs": lambda: {
        "behaviours.yaml": b"a: &a [lol]\n"
        + b"".join(b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(20))
    },
    "deep-flow": lambda: {"behaviours.yaml": b"[" * 60_000},
    "deep-mappings": lambda: {"behaviours.yaml": b"{a: " * 16_000},
    "deep-dashes": lambda: {"behaviours.yaml": b"- " * 32_000},
    "deep-blocks": lambda: {"behaviours.yaml": "".join(f"{' ' * n}a:\n" for n in range(900)).encode()},
    "duplicate-keys": lambda: {"behaviours.yaml": b"a: 1\n" * 24_000},
    "many-nodes": lambda: {
        f"campaigns/x{n}.yaml": b"[a,b,c,d,e,f,g,h,i,j,k]\n---\n" * 1_500 for n in range(30)
    },
    "huge-file": lambda: {"behaviours.yaml": b"#" * (15 << 20)},
    "huge-files": lambda: {f"campaigns/x{n}.yaml": b"# " + b"x" * 500_000 for n in range(120)},
    "utf-16": lambda: {"behaviours.yaml": "behaviours: {}".encode("utf-16")},
    "half-a-character": lambda: {"behaviours.yaml": b"behaviours: {a: {label: '\xe4\xbd'}}"},
    # expressions
    "deep-brackets": lambda: definitions(f"{'(' * 4000}true{')' * 4000}" for _ in range(20)),
    "deep-lists": lambda: definitions(f"{'[' * 2000}{']' * 2000} == []" for _ in range(20)),
    "deep-choices": lambda: definitions(f"{'true ? ' * 900}true{' : true' * 900}" for _ in range(20)),
    "wrong-expressions": lambda: campaigns(8_000, when=lambda n: f"sub.aage > {n}"),
    "unparsable-expressions": lambda: campaigns(8_000, when=lambda n: f"'sub.age + {n} ((('"),
    "long-expressions": lambda: campaigns(1_400, 50, when=lambda n: f"'1 in [{_LONG_LIST},{n}]'"),
    "many-variables": lambda: campaigns(3_500, 100, content=lambda n: f'{{sms: "{"{{sub.age}}" * 360}"}}'),
    "alternatives": lambda: campaigns(
        30,
        when=lambda n: (
            f'"{" && ".join(f"(sub.age > {k + n} || sub.name == string({k}))" for k in range(150))}"'
        ),
    ),
    "comprehensions": lambda: campaigns(
        200, when=lambda n: f"'{_HUNDRED}.all(a, {_HUNDRED}.all(b, {_HUNDRED}.all(c, a + b + c > {n})))'"
    ),
    "nasty-patterns": lambda: campaigns(
        200, when=lambda n: f"'event.topic.matches(\"(a+)+(a|aa)+(b{{30}}){{30}}c{{{n}}}$\")'"
    ),
    # names that lead to names
    "circle": lambda: definitions(f"behaviour.d{(n + 1) % 8000}" for n in range(8000)),
    "many-circles": lambda: definitions(
        f"behaviour.d{(n + 1) % 300} && behaviour.d{(n * 7 + 3) % 300}" for n in range(300)
    ),
    "doubling": lambda: definitions(
        ["sub.age > 1"]
        + [f"behaviour.d{n - 1} && (behaviour.d{n - 1} || sub.age > {n})" for n in range(1, 60)]
    ),
    "circle-of-patterns": lambda: behaviours(
        "patterns", (f"p{n}: {{sequence: [p{(n + 1) % 4000}, called], within: 1h}}" for n in range(4000))
    ),
    "chain-of-patterns": lambda: behaviours(
        "patterns",
        ["p0: {count: called, at_least: 2, within: 1h}"]
        + [f"p{n}: {{sequence: [p{n - 1}, called], within: 1h}}" for n in range(1, 4000)],
    ),
    "circle-of-templates": lambda: documents(
        [f"{{template: t{n}, like: t{(n + 1) % 9000}}}" for n in range(9000)] + ["{campaign: c, like: t0}"]
    ),
    "wide-template": lambda: template(
        f"content: {{sms: x}}, branches: [{', '.join(f'x{n}' for n in range(8000))}]", 10_000
    ),
    "talkative-template": lambda: template(f'content: {{sms: "{"{{sub.age}}" * 50}"}}', 10_000),
    # much of everything
    "ten-thousand-campaigns": lambda: campaigns(10_000, when=lambda n: f"sub.age > {n}"),
    "many-event-types": lambda: {
        "vocabulary.yaml": BASE["vocabulary.yaml"].replace(
            b"{called:",
            b"{"
            + b"".join(b"e%d: {attributes: {a%d: int}},\n " % (n, n % 3000) for n in range(5000))
            + b"called:",
        )
    },
    "large-matrix": lambda: table(900, "c;d"),
    "one-cell-of-names": lambda: {"matrix.csv": b"behaviour,called\nd," + b";".join([b"a"] * 60_000)},
    "far-cell": lambda: {
        "matrix.xlsx": raw_workbook('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')
    },
    "unpacks-to-much": lambda: {"matrix.xlsx": raw_workbook(" " * (100 << 20))},
    "many-elements": lambda: {"matrix.xlsx": raw_workbook("<c/>" * (2 << 20))},
    "laughing-workbook": lambda: {
        "matrix.xlsx": raw_workbook(
            "<row><c><v>&b;</v></c></row>",
            before='<!DOCTYPE x [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;&a;">]>',
        )
    },
}


def archive_of_too_much() -> bytes:
    """A small archive that unpacks to a gigabyte, a part at a time within what a file may have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(64):
            packed.writestr(f"t{number}.csv", bytes(16 << 20))
    return buffer.getvalue()


def peak_mib() -> float:
    """The most memory that this process has held since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(name: str) -> None:
    from opportune_rulebase import RulebaseError, from_archive, load
    from opportune_rulebase.network import NetworkEngine

    given = archive_of_too_much() if name == "archive" else dict(BASE) | CASES[name]()
    forget_peak()
    codes: list[str] = []
    try:
        rulebase = load(from_archive(given) if isinstance(given, bytes) else given)
        NetworkEngine(rulebase).close()
    except RulebaseError as error:
        codes = sorted({problem.code for problem in error.problems})
    print(json.dumps({"codes": codes, "mib": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1])
