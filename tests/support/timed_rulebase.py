"""A rulebase whose campaigns wait for timers, and a service whose clock is moved by hand."""

from __future__ import annotations

from textwrap import dedent

import msgspec
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.verdict import Verdict

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


def timed_rulebase(*, sources: str = "", silent: str = "", patterns: str = "") -> dict[str, bytes]:
    """Files: whose balance is low and who does not recharge within an hour gets an SMS.

    `silent`: another text for that pattern, or "none" for none. `patterns`: more lines of patterns.
    `sources`: the declared ones, in YAML.
    """
    files = {
        "rulebase.yaml": "rulebase: timed\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": f"""\
            events:
              low_balance: {{attributes: {{left: {{type: int, min: 0}}}}}}
              recharge: {{}}
              sms_sent: {{}}
              counter_visit: {{}}
            subscriber: {{age: int, contract_end: date}}
            sources: {{{sources}}}
            channels: {{sms: {{mode: automatic}}, counter: {{mode: manual}}}}
            products:
              credit: {{label: Credit, category: money}}
              advice: {{label: Advice, category: care}}
              renewal: {{label: Renewal, category: contract}}
            """,
        "behaviours.yaml": f"""\
            metrics:
              low_1h: {{count: low_balance, last: 1h}}
              sms_1h: {{count: sms_sent, last: 1h}}
            patterns:
              texted_after: {{sequence: [low_balance, sms_sent], within: 30m}}
              silent: {silent or "{after: low_balance, absent: recharge, for: 1h}"}
              twice_silent: {{count: silent, at_least: 2, within: 7d}}
              {patterns}
            """,
        "campaigns/credit.yaml": """\
            campaign: credit
            product: credit
            on: [silent]
            mode: automatic
            channels: [sms]
            content: {sms: "Credit"}
            """,
        "campaigns/advice.yaml": """\
            campaign: advice
            product: advice
            on: [twice_silent, texted_after]
            mode: automatic
            channels: [sms]
            content: {sms: "Advice"}
            """,
        "campaigns/renewal.yaml": """\
            campaign: renewal
            product: renewal
            on: [{date: sub.contract_end, before: 30d, at: "10:00"}]
            mode: automatic
            channels: [sms]
            content: {sms: "Renew"}
            """,
        "policies.yaml": "arbitration: {max_automatic: 3}\n",
    }
    if silent == "none":
        text = files["behaviours.yaml"]
        files["behaviours.yaml"] = "\n".join(line for line in text.splitlines() if "silent" not in line)
        del files["campaigns/credit.yaml"]
        files["campaigns/advice.yaml"] = files["campaigns/advice.yaml"].replace("twice_silent, ", "")
    return {name: dedent(text).encode() for name, text in files.items()}


def low(subscriber_id: str, event_id: str, at_us: int, left: int = 1) -> Event:
    return Event(event_id, subscriber_id, "low_balance", at_us, msgspec.json.encode({"left": left}))


def plain(type_: str, subscriber_id: str, event_id: str, at_us: int) -> Event:
    """An event without attributes."""
    return Event(event_id, subscriber_id, type_, at_us)


async def later(app: Application, us: int) -> list[Verdict]:
    """Let the clock go on by `us`, and settle what is due; the verdicts."""
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us += us
    verdicts: list[Verdict] = []
    while app.ingest.next_timer_us <= app.clock.now_us():
        verdicts += (await app.ingest.settle_timers()).verdicts
    return verdicts
