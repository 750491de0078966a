"""Decisions as the service tells them, made ready for screens and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

import msgspec
from opportune_client import Reason, from_timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opportune_service.cli.terminal import mask_number, mask_numbers

MODES = ("", "automatic", "manual")
DELIVERY = ("", "pending", "leased", "sent", "delivered", "failed", "expired", "dead", "withdrawn")
OUTCOMES = (
    "", "delivered", "opened", "inquired", "accepted", "refused", "complained", "ordered", "later",
    "not_offered",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """One decision, or lost candidate, in words. `who` is masked, and so is `content`."""

    decision_id: str
    time: str
    who: str
    campaign: str
    label: str
    reason: str
    channel: str
    content: str
    why: str

    @property
    def decided(self) -> bool:
        return self.reason == "decided"

    def text(self) -> Text:
        """One line for a terminal."""
        said = f"by {self.channel}: {self.content}" if self.decided else self.reason
        because = f"because {self.why}" if self.decided else self.why
        return Text.assemble(
            (f"{self.time} ", "dim"),
            f"{self.who} ",
            (f"{self.label or self.campaign} ", "green" if self.decided else "yellow"),
            said,
            (f" ({because}) {self.decision_id}", "dim"),
        )


def word(words: Sequence[str], number: int) -> str:
    """The word for a number of the contract; the number itself if the service knows more than we do."""
    return words[number] if 0 <= number < len(words) else str(number)


def reason_word(number: int) -> str:
    """`decided`, `capped` ..."""
    return Reason(number).name.lower() if number in Reason._value2member_map_ else str(number)


def tell(decision: Any, zone: tzinfo | None = None) -> Told:
    """A `Decision` of the contract in words; times in `zone`, or in that of this machine."""
    return Told(
        decision_id=decision.decision_id,
        time=f"{from_timestamp(decision.decided_at).astimezone(zone):%H:%M:%S}",
        who=mask_number(decision.subscriber_id),
        campaign=decision.campaign,
        label=decision.campaign_label,
        reason=reason_word(decision.reason),
        channel=decision.channel,
        content=mask_numbers(decision.content),
        why=_why(decision),
    )


def _why(decision: Any) -> str:
    """The reason in a few words: what held for a decision, what said no for a lost candidate."""
    if decision.reason != Reason.DECIDED:
        refusals = [check.detail or check.policy for check in decision.trace.checks if not check.passed]
        return refusals[-1] if refusals else "no detail"
    findings = decision.trace.findings
    held = [f.label or f.name for f in findings if f.value_json == "true"]
    figures = [
        f"{finding.label or finding.name} {finding.value_json}"
        for finding in findings
        if finding.name.startswith("metric.")
    ]
    return ", ".join(dict.fromkeys(held + figures)) or f"of {decision.event_type}"


def decision_record(decision: Any) -> dict[str, object]:
    """A `Decision` of the contract for programs, without its trace."""
    return {
        "decision_id": decision.decision_id,
        "subscriber_id": decision.subscriber_id,
        "source": decision.source,
        "event_id": decision.event_id,
        "event_type": decision.event_type,
        "campaign": decision.campaign,
        "campaign_label": decision.campaign_label,
        "product": decision.product,
        "mode": word(MODES, decision.mode),
        "reason": reason_word(decision.reason),
        "channel": decision.channel,
        "content": decision.content,
        "occurred_at": instant_of(decision, "occurred_at"),
        "decided_at": instant_of(decision, "decided_at"),
        "expires_at": instant_of(decision, "expires_at"),
        "due_at": instant_of(decision, "due_at"),
        "attempt": decision.attempt,
        "revision": decision.revision,
        "delivery": word(DELIVERY, decision.delivery_state),
        "outcomes": [
            {"outcome": word(OUTCOMES, outcome.kind), "at": instant_of(outcome, "occurred_at")}
            for outcome in decision.outcomes
        ],
    }


def trace_record(decision: Any) -> dict[str, object]:
    """The same with its trace."""
    trace = decision.trace
    return decision_record(decision) | {
        "findings": [
            {
                "name": finding.name,
                "label": finding.label,
                # Absent means unknown, which JSON says as null.
                "value": msgspec.Raw(finding.value_json.encode() or b"null"),
            }
            for finding in trace.findings
        ],
        "checks": [
            {"policy": check.policy or reason_word(check.reason), "channel": check.channel,
             "passed": check.passed, "detail": check.detail,
             "count": check.count if check.HasField("count") else None,
             "limit": check.limit if check.HasField("limit") else None,
             "clear_at": instant_of(check, "clear_at")}
            for check in trace.checks
        ],
        "arbitration": {
            "priority": trace.arbitration.priority,
            "score": trace.arbitration.score,
            "rank": trace.arbitration.rank,
            "lost_to": trace.arbitration.lost_to,
            "group": trace.arbitration.group,
        }
        if trace.HasField("arbitration")
        else None,
    }  # fmt: skip


def show_trace(console: Console, decision: Any) -> None:
    """Why a candidate ended as it did, in full."""
    reason = reason_word(decision.reason) if decision.reason else "not matched"
    style = "bold green" if reason == "decided" else "bold yellow"
    label = f" ({decision.campaign_label})" if decision.campaign_label else ""
    console.print(Text.assemble((f"{decision.campaign}{label}: {reason}", style)))
    facts = [("product", decision.product_label or decision.product)]
    if decision.decision_id:
        facts.insert(0, ("decision", decision.decision_id))
    if decision.channel:
        facts.append(("channel", f"{decision.channel} ({word(MODES, decision.mode)})"))
    if decision.content:
        facts.append(("content", decision.content))
    if decision.HasField("due_at"):
        facts.append(("decided again", instant_of(decision, "due_at")))
    if decision.attempt > 1:
        facts.append(("attempt", str(decision.attempt)))
    if decision.delivery_state:
        facts.append(("delivery", word(DELIVERY, decision.delivery_state)))
    if decision.outcomes:
        facts.append(("outcomes", ", ".join(word(OUTCOMES, outcome.kind) for outcome in decision.outcomes)))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value))
    for finding in decision.trace.findings:
        value = finding.value_json if finding.HasField("value_json") else "unknown"
        table.add_row(
            Text("held", style="dim"), Text(f"{finding.name} = {value}  {finding.label}".rstrip())
        )
    for check in decision.trace.checks:
        mark = Text("passed", style="green") if check.passed else Text("said no", style="red")
        name = " ".join(
            dict.fromkeys(
                part for part in (check.policy or reason_word(check.reason), check.channel) if part
            )
        )
        said = f"{name}: {check.detail}" if check.detail else name
        if check.HasField("clear_at"):
            said += f" (until {instant_of(check, 'clear_at')})"
        table.add_row(mark, Text(said))
    console.print(table)


def instant_of(message: Any, name: str) -> str:
    """A time of a message as RFC 3339; empty if it is not set."""
    if not message.HasField(name):
        return ""
    instant = from_timestamp(getattr(message, name))
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
