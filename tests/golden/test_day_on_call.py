"""Every command of the guide for whoever is on call does what the guide says, against a live service."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_rulebase import load
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.deliver import Settled
from opportune_service.app.records import Settlement
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from support.applications import in_loop
from support.rulebases import NOON_US
from support.staff import Staff, staff

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "a-day-on-call.md"
GUIDE = PAGE.read_text(encoding="utf-8")
PACK = read_rulebase(ROOT / "rulebase" / "packs" / "gprs-precision")
TEXT = "campaigns/missed-call-alert.yaml"

ON_CALL = "zhang.wei"
ROLES = {ON_CALL: ["operator"], "li.na": ["analyst"], "wang.fang": ["approver", "operator"]}
OFF_DAYS = {"8613800000001": 18, "8613800000002": 2, "8613800000003": 18}
CONTACTED, _, UNREACHED = OFF_DAYS
DECISION = "3f6c0d1be2a94c7788a0b1c2"
MINUTE_US = 60_000_000

_BLOCKS = re.compile(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


def priced(yuan: int) -> dict[str, bytes]:
    """The sample rulebase with another price in a text."""
    text = PACK[TEXT].decode()
    assert text.count("每月3元") == 1
    return PACK | {TEXT: text.replace("每月3元", f"每月{yuan}元").encode()}


BEFORE, CURRENT, PLANNED = PACK, priced(4), priced(2)
REVISIONS = {
    "7e8f90a1b2c3": load(BEFORE).revision,
    "0a1b2c3d4e5f": load(CURRENT).revision,
    "9d41c07be2f5": load(PLANNED).revision,
}
"""As the guide has them -> as they are."""


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Who types what. What only concerns the shell is left out."""
    for line in block.splitlines():
        command, _, who = line.partition("  #")
        words = shlex.split(command)
        if words[0] != "export" and words[1] != "--install-completion":
            assert words[0] == "opportune", line
            yield who.strip() or ON_CALL, words[1:]


def is_shown(excerpt: str, output: str) -> bool:
    """Whether the lines of the guide are lines of the output, in that order; `...` is anything, and
    blanks do not count."""
    lines = [
        r".*".join(map(re.escape, re.split(r" ?\.{3} ?", squeezed(line)))) for line in excerpt.splitlines()
    ]
    place = 0
    printed = [squeezed(line) for line in output.splitlines()]
    for line in lines:
        found = [n for n in range(place, len(printed)) if re.fullmatch(line, printed[n])]
        if not found:
            return False
        place = found[0] + (line != r".*")
    return True


def squeezed(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.parametrize(
    ("excerpt", "fits"),
    [
        ("", True),
        ("a  b\nd", True),
        ("a ... c\nd", True),
        ("...\nd", True),
        ("b c", False),
        ("d\na b", False),
        ("d\nd", False),
        ("a b c\n...\nd\ne", False),
    ],
)
def test_what_is_not_printed_is_not_shown(excerpt: str, fits: bool) -> None:
    assert is_shown(excerpt, "a b\na b c\nd\n") is fits


async def a_life_before(people: Staff, clock: ManualClock) -> str:
    """One customer was contacted, and then spared; one is no customer for it; one could not be reached. The
    decision by which the first was contacted."""
    app = people.service.app
    items = [
        ImportItem(who, json.dumps({"off_days_30d": days, "brand_name": "全球通"}).encode())
        for who, days in OFF_DAYS.items()
    ]
    await import_context(app.live, app.ingest, items, NOON_US, ImportMode.UPSERT, Encoding.JSON)

    async def powers_on(number: int, *who: str) -> None:
        events = [
            Event(f"{each}-{number}", each, "power_on", clock.now_us(), b'{"roaming": false}')
            for each in who
        ]
        await app.ingest.publish("mss-1", events)

    sent = set()
    await powers_on(1, *OFF_DAYS)
    for _ in range(MAX_ATTEMPTS + 2):
        for lease in await app.deliveries.lease("sms", 10):
            reached = lease.subscriber_id != UNREACHED
            said = (Settlement.SENT, "") if reached else (Settlement.RETRY, "the gateway is closed")
            await app.deliveries.settle([Settled(lease.decision_id, lease.token, lease.attempt, *said)])
            sent |= {lease.decision_id} if reached else set()
        clock.value_us += MINUTE_US + 1
    await powers_on(2, CONTACTED)
    (decision,) = sent
    return decision


def test_every_command_of_the_guide_does_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPPORTUNE_DATABASE", f"sqlite:///{tmp_path}/opportune.db")
    for name, content in PLANNED.items():
        path = tmp_path / "my-rulebase" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with staff(tmp_path, ROLES, BEFORE, clock=clock) as people:
            app = people.service.app
            current, _ = await app.rulebases.upload(CURRENT, "li.na", "")
            await app.activations.activate(
                current.revision, app.live.id, "wang.fang", "the alert at 4 yuan"
            )
            names = {DECISION: await a_life_before(people, clock)}
            names |= {shown: real[:12] for shown, real in REVISIONS.items()}
            names |= {shown[:8]: real[:8] for shown, real in REVISIONS.items()}
            ran = 0
            for block, excerpt in _BLOCKS.findall(GUIDE):
                output = ""
                for who, words in commands(block):
                    typed = [names.get(word, word) for word in words]
                    output += (await people.run(who, *typed, answer="y\n")).output
                    ran += 1
                for as_shown, real in names.items():
                    output = output.replace(real, as_shown)
                assert is_shown(excerpt, output), f"{block}\n{output}"
            assert ran > 25
            assert app.live.id == REVISIONS["9d41c07be2f5"]

    in_loop(body)


def test_the_guide_names_metrics_and_alerts_that_there_are() -> None:
    operations = (PAGE.parent / "operations.md").read_text(encoding="utf-8")
    metrics = set(re.findall(r"`(opportune_\w+)`", GUIDE))
    assert len(metrics) > 8
    assert [name for name in metrics if f"| `{name}` |" not in operations] == []
    alerts = re.findall(r"operations\.md#(\w+)", GUIDE)
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", operations, re.MULTILINE)}
    assert set(alerts) <= headings
