"""How long checking a rulebase takes, by phase: 3,000 campaigns and 500 definitions.

Rows are `check/3000/<phase>` in seconds, the median of some runs: `yaml` (text to nodes), `expressions`
(each different one compiled by Google's CEL), `load` (the whole of it: those two and all the rest),
`engine` (the network engine made of what was loaded), and `all`, which is `load` and `engine`: what an
operator waits for. What was loaded is counted: only right answers count.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import perf_counter

from harness import Row, console
from rich.table import Table

__all__ = ["files", "rows"]

CAMPAIGNS = 3_000
METRICS, BEHAVIOURS, SCENES = 200, 250, 50
TYPES = 20
CHANNELS = ("sms", "push", "letter")
A_FILE = 100
ROUNDS = 3


def files(campaigns: int = CAMPAIGNS, seed: int = 20261120) -> dict[str, bytes]:
    """A rulebase of this size, such as analysts write: the same arguments always give the same files."""
    rnd = random.Random(seed)
    texts = {
        "rulebase.yaml": "rulebase: large\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": _vocabulary(),
        "behaviours.yaml": _behaviours(rnd),
    }
    for start in range(0, campaigns, A_FILE):
        documents = [_campaign(rnd, number) for number in range(start, min(start + A_FILE, campaigns))]
        texts[f"campaigns/{start:05}.yaml"] = "---\n".join(documents)
    return {path: text.encode() for path, text in texts.items()}


def rows(only: str = "") -> Iterator[Row]:
    """Run it. `only` is a prefix of row names; all phases run for any of them."""
    taken = _measure(files())
    table = Table(
        title=f"check: seconds for {CAMPAIGNS:,} campaigns and {METRICS + BEHAVIOURS + SCENES} definitions"
    )
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for phase, seconds in taken.items():
        table.add_row(phase, f"{seconds:.2f}")
        if (row := Row(f"check/{CAMPAIGNS}/{phase}", round(seconds, 3), "s")).name.startswith(only):
            yield row
    console.print(table)


def _measure(given: Mapping[str, bytes]) -> dict[str, float]:
    from opportune_rulebase import load
    from opportune_rulebase.expressions import Expression, Scope
    from opportune_rulebase.loading.problems import Report
    from opportune_rulebase.loading.source import MAX_YAML_BYTES, Budget, decode, documents
    from opportune_rulebase.network import NetworkEngine
    from opportune_rulebase.variables import declared

    def yaml() -> None:
        budget, report = Budget(), Report()
        for path, content in given.items():
            source = decode(path, content, MAX_YAML_BYTES, report)
            assert source is not None
            assert documents(source, budget, report) is not None

    rulebase = load(given)
    assert len(rulebase.campaigns) == CAMPAIGNS
    assert len(rulebase.definitions) == BEHAVIOURS + SCENES
    written: list[Expression | None] = [each.when for each in rulebase.definitions.values()]
    written += [each.where for each in rulebase.metrics.values()]
    for campaign in rulebase.campaigns.values():
        parts = [part for template in campaign.content.values() for part in template.parts]
        written += [campaign.when, campaign.target, campaign.propensity]
        written += [part for part in parts if isinstance(part, Expression)]
    texts = [(each.text, each.position) for each in written if each is not None]

    def expressions() -> None:
        scope = Scope(declared(rulebase.vocabulary, rulebase.metrics, rulebase.definitions))
        for text, position in texts:
            scope.compile(text, position)

    taken = {
        "yaml": _timed(yaml),
        "expressions": _timed(expressions),
        "load": _timed(lambda: load(given)),
        "engine": _timed(lambda: NetworkEngine(rulebase).close()),
    }
    return taken | {"all": taken["load"] + taken["engine"]}


def _timed(run: Callable[[], object]) -> float:
    """Seconds, the collector of garbage as busy as it is in the service."""
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        before = perf_counter()
        run()
        times.append(perf_counter() - before)
    return median(times)


def _vocabulary() -> str:
    attributes = "{kind: string, amount: {type: int, min: 0}, seconds: int, topic: string}"
    lines = ["events:", *(f"  t{number}: {{attributes: {attributes}}}" for number in range(TYPES))]
    lines += ["subscriber:", "  age: int", "  points: int", "  brand: string", "  name: string"]
    lines += ["  hobbies: list<string>", *(f"  score{number}: double" for number in range(20))]
    lines += ["channels:", *(f"  {name}: {{mode: automatic}}" for name in CHANNELS)]
    lines += ["products:", *(f"  p{n}: {{label: Product {n}, category: c{n % 7}}}" for n in range(100))]
    return "\n".join([*lines, ""])


def _behaviours(rnd: random.Random) -> str:
    lines = ["metrics:"]
    for number in range(METRICS):
        figure = rnd.choice(("count: {0}", "sum: event.amount, of: {0}")).format(f"t{number % TYPES}")
        window = rnd.choice(("days: 30", "days: 7", "last: 24h"))
        lines.append(f"  m{number}: {{{figure}, {window}, where: event.seconds > {number}}}")
    lines.append("behaviours:")
    for number in range(BEHAVIOURS):
        below = f" && behaviour.b{rnd.randrange(number)}" if number and rnd.random() < 0.3 else ""
        test = f"metric.m{number % METRICS} >= {rnd.randrange(1, 50)}"
        lines.append(f"  b{number}: {{label: 行为 {number}, when: {test} && {_of_subscriber(rnd)}{below}}}")
    lines.append("scenes:")
    for number in range(SCENES):
        hour = rnd.randrange(8, 20)
        lines.append(f"  s{number}:")
        lines.append(f'    when: "now.getHours(zone) >= {hour} && now.getHours(zone) < {hour + 3}"')
    return "\n".join([*lines, ""])


def _campaign(rnd: random.Random, number: int) -> str:
    moment = [
        f'event.kind == "k{rnd.randrange(8)}"',
        f"event.amount >= {rnd.randrange(1000)}",
        f"behaviour.b{rnd.randrange(BEHAVIOURS)}",
        f"scene.s{rnd.randrange(SCENES)}",
        f"metric.m{rnd.randrange(METRICS)} < {rnd.randrange(1, 50)}",
    ]
    types = ", ".join(f"t{each}" for each in rnd.sample(range(TYPES), rnd.choice((1, 1, 2))))
    return f"""\
campaign: c{number:05}
label: 活动 {number}
product: p{rnd.randrange(100)}
on: [{types}]
when: {" && ".join(rnd.sample(moment, rnd.choice((3, 4, 5))))}
target: '{_of_subscriber(rnd)} && {_of_subscriber(rnd)}'
mode: automatic
channels: [{rnd.choice(CHANNELS)}]
priority: {rnd.randrange(1000)}
propensity: sub.score{rnd.randrange(20)}
valid: {{from: 2026-11-01, to: 2026-12-31}}
content:
  default: "{{{{sub.name}}}}: {{{{product.label}}}}, {{{{event.amount}}}}. {number}"
"""


def _of_subscriber(rnd: random.Random) -> str:
    return rnd.choice(
        (
            f"sub.age >= {rnd.randrange(18, 60)}",
            f"sub.points < {rnd.randrange(10_000)}",
            f'sub.brand == "b{rnd.randrange(4)}"',
            f'"h{rnd.randrange(30)}" in sub.hobbies',
        )
    )
