"""What a replay came to, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opportune_service.adapters.files.faults import Faults
from opportune_service.app.context import SubscriberView
from opportune_service.app.replay import ReplayReport
from opportune_service.cli.terminal import err, instant_text, out

_SHOWN_FAULTS = 5


def replay_record(
    report: ReplayReport, faults: Faults, views: Sequence[SubscriberView]
) -> dict[str, object]:
    """The report for programs. Losses are by campaign, then reason."""
    lost: dict[str, dict[str, int]] = {}
    for (campaign, reason), count in sorted(report.lost.items()):
        lost.setdefault(campaign, {})[reason.value] = count
    return {
        "events": report.events,
        "duplicates": report.duplicates,
        "subscribers": len(report.subscribers),
        "first": instant_text(report.first_us),
        "last": instant_text(report.last_us),
        "by_type": dict(report.by_type.most_common()),
        "rejected": dict(report.rejections.most_common()),
        "unreadable": faults.count,
        "decided": dict(report.decided.most_common()),
        "reasons": dict(report.reasons().most_common()),
        "lost": lost,
        "metrics": [
            {
                "subscriber_id": view.subscriber_id,
                "at": instant_text(report.last_us),
                "metrics": {
                    reading.name: {"value": reading.value, "covered": reading.covered}
                    for reading in view.metrics
                },
            }
            for view in views
        ],
    }


def show_replay(
    report: ReplayReport, faults: Faults, views: Sequence[SubscriberView], labels: Mapping[str, str]
) -> None:
    """The report as tables."""
    console = out()
    console.print(
        f"{report.events} events of {len(report.subscribers)} subscribers, "
        f"{instant_text(report.first_us)} to {instant_text(report.last_us)}; "
        f"{report.duplicates} duplicates, {report.rejections.total()} rejected, {faults.count} unreadable",
        style="bold",
    )
    for fault in faults.first[:_SHOWN_FAULTS]:
        err().print(Text(str(fault), style="yellow"))
    _counts(console, "Events", ("type", "events"), report.by_type.most_common())
    _counts(console, "Rejected", ("reason", "events"), report.rejections.most_common())
    _counts(console, "Candidates by reason", ("reason", "candidates"), report.reasons().most_common())
    _campaigns(console, report, labels)
    for view in views:
        _metrics(console, view)


def _counts(console: Console, title: str, heads: tuple[str, str], rows: Sequence[tuple[str, int]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(heads[0])
    table.add_column(heads[1], justify="right")
    for name, count in rows:
        table.add_row(Text(name), str(count))
    console.print()
    console.print(table)


def _campaigns(console: Console, report: ReplayReport, labels: Mapping[str, str]) -> None:
    """Every campaign that had a candidate: what was decided, and why the others were lost."""
    lost: dict[str, list[str]] = {}
    for (campaign, reason), count in report.lost.most_common():
        lost.setdefault(campaign, []).append(f"{reason.value} {count}")
    names = [
        *dict(report.decided.most_common()),
        *(name for name in sorted(lost) if not report.decided[name]),
    ]
    console.print()
    if not names:
        console.print("No campaign had a candidate.")
        return
    table = Table(title="Campaigns", title_justify="left", box=None, pad_edge=False)
    table.add_column("campaign")
    table.add_column("label")
    table.add_column("decided", justify="right")
    table.add_column("lost")
    for name in names:
        table.add_row(
            Text(name), Text(labels.get(name, "")), str(report.decided[name]), ", ".join(lost.get(name, []))
        )
    console.print(table)


def _metrics(console: Console, view: SubscriberView) -> None:
    """Numbers in full: whoever replays a file has them before their eyes."""
    table = Table(title=f"Metrics of {view.subscriber_id}", title_justify="left", box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for reading in view.metrics:
        value = "unknown" if reading.value is None else f"{reading.value:g}"
        table.add_row(
            Text(reading.name), value if reading.covered or reading.value is None else f"≥ {value}"
        )
    console.print()
    console.print(table)
