"""What `opportune dev` shows: counters and the last decisions, as a live table, lines or JSON. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from opportune_service.cli.decisions import Told

_LAST = 10
_NEWS = 5
_CAMPAIGNS = 14
_LEAST = 3
_FRAME = 11
"""Rows for borders, headings and the status."""


@dataclass(slots=True)
class Board:
    """Everything that happened since the start. `labels` are those of the campaigns."""

    labels: Mapping[str, str] = field(default_factory=dict)
    now: str = ""
    events: int = 0
    events_per_second: float = 0
    rejected: int = 0
    sent: int = 0
    advised: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    last: deque[Told] = field(default_factory=lambda: deque(maxlen=_LAST))
    news: deque[str] = field(default_factory=lambda: deque(maxlen=_NEWS))
    target_option: str = ""
    """What commands need to reach this service; empty at the usual address."""

    decision_id: str = ""
    """A decision to explain: the newest that was decided."""

    def take(self, told: Told) -> None:
        """Count one decision or lost candidate."""
        if told.label:
            self.labels = {**self.labels, told.campaign: told.label}
        if told.decided:
            self.decided[told.campaign] += 1
            self.decision_id = told.decision_id
            self.last.append(told)
        else:
            self.lost[told.campaign, told.reason] += 1

    def status(self) -> str:
        """All that matters, on one line."""
        reasons = self.reasons()
        lost = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(4)) or "none"
        return (
            f"{self.now}  {self.events} events ({self.events_per_second:.0f}/s), "
            f"{self.decided.total()} decided, {self.sent} sent, {self.advised} advised; lost: {lost}"
        )

    def reasons(self) -> Counter[str]:
        """Lost candidates by reason."""
        reasons: Counter[str] = Counter()
        for (_, reason), count in self.lost.items():
            reasons[reason] += count
        return reasons

    def record(self) -> dict[str, object]:
        """The board for programs."""
        lost: dict[str, dict[str, int]] = {}
        for (campaign, reason), count in sorted(self.lost.items()):
            lost.setdefault(campaign, {})[reason] = count
        return {
            "type": "summary",
            "now": self.now,
            "events": self.events,
            "rejected": self.rejected,
            "sent": self.sent,
            "advised": self.advised,
            "decided": dict(self.decided.most_common()),
            "lost": lost,
            "outcomes": dict(self.outcomes),
        }


def campaigns_table(board: Board, *, limit: int | None = None) -> Table:
    """Campaigns by decisions, each with why its other candidates were lost."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("campaign", ratio=3, no_wrap=True)
    table.add_column("decided", justify="right", width=8)
    table.add_column("lost, and why", ratio=5, no_wrap=True)
    candidates: Counter[str] = Counter(board.decided)
    reasons: dict[str, Counter[str]] = {}
    for (campaign, reason), count in board.lost.items():
        candidates[campaign] += count
        reasons.setdefault(campaign, Counter())[reason] = count
    names = sorted(candidates, key=lambda name: (-board.decided[name], -candidates[name], name))
    for name in names[:limit]:
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.get(name, Counter()).most_common())
        table.add_row(
            Text(board.labels.get(name) or name), str(board.decided[name]), Text(why, style="dim")
        )
    if limit is not None and len(names) > limit:
        table.add_row(Text(f"and {len(names) - limit} more", style="dim"), "", "")
    return table


def screen(board: Board, height: int) -> Group:
    """The live picture, for a terminal with so many rows."""
    news = list(board.news)[-max(2, height // 8) :]
    room = height - _FRAME - (len(news) + 2 if news else 0)
    rows = min(_LAST, max(_LEAST, room // 2))
    last = Table(box=None, pad_edge=False, expand=True)
    last.add_column("time", width=8)
    last.add_column("who", width=13)
    last.add_column("campaign", ratio=4, no_wrap=True)
    last.add_column("where", width=8, no_wrap=True)
    last.add_column("what is said", ratio=6, no_wrap=True)
    last.add_column("why", ratio=6, no_wrap=True)
    for told in list(board.last)[: -rows - 1 : -1]:
        last.add_row(
            Text(told.time, style="dim"), Text(told.who), Text(told.label or told.campaign, style="green"),
            Text(told.channel), Text(told.content), Text(told.why, style="dim"),
        )  # fmt: skip
    outcomes = ", ".join(f"{name} {count}" for name, count in board.outcomes.most_common()) or "none yet"
    head = Text.assemble(
        (board.status(), "bold"), f"\nanswers of customers: {outcomes}", no_wrap=True, overflow="ellipsis"
    )
    hint = f"opportune explain {board.decision_id}{board.target_option}" if board.decision_id else None
    parts = [
        Panel(head, title="opportune dev", title_align="left"),
        Panel(
            campaigns_table(board, limit=min(_CAMPAIGNS, max(_LEAST, room - rows - 1))),
            title="campaigns",
            title_align="left",
        ),
        Panel(last, title="last decisions", title_align="left", subtitle=hint, subtitle_align="left"),
    ]
    if news:
        parts.append(
            Panel(
                Text("\n".join(news), no_wrap=True, overflow="ellipsis"),
                title="rulebase",
                title_align="left",
            )
        )
    return Group(*parts)
