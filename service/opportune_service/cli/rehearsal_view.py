"""A rehearsal's report, for people (tables on a screen, or Markdown) and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opportune_client import from_timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opportune_service.cli.decisions import decision_record, reason_word
from opportune_service.cli.terminal import mask_number, mask_numbers

_SAMPLES_SHOWN = 5
_LOSSES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Section:
    """A table. Columns whose heading begins with ">" hold figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = ""


def headline(report: Any) -> str:
    """One line: what was run, and what came of it."""
    zone = _zone(report)
    more = _signed(report.decided_count - report.baseline_decided_count)
    return (
        f"{report.event_count:,} events from {_time(report.since, zone)} to {_time(report.until, zone)}: "
        f"{report.decided_count:,} contacts ({more} to the baseline), {report.control_count:,} held back "
        f"by control groups, cost {report.cost:,} ({_signed(report.cost - report.baseline_cost)})"
    )


def sections(report: Any) -> Iterator[Section]:
    """Campaigns, losses, channels, samples of differences. Times in the rulebase's zone."""
    zone = _zone(report)
    yield _campaigns(report, zone)
    yield _losses(report)
    yield _channels(report, zone)
    if any(each.samples for each in report.differences):
        yield _samples(report, zone)


def _campaigns(report: Any, zone: tzinfo | None) -> Section:
    decided: Counter[str] = Counter()
    control: Counter[str] = Counter()
    busiest: dict[str, Any] = {}
    for volume in report.volumes:
        decided[volume.campaign] += volume.decided_count
        control[volume.campaign] += volume.control_count
        if volume.decided_count > getattr(busiest.get(volume.campaign), "decided_count", 0):
            busiest[volume.campaign] = volume
    differences = {each.campaign: each for each in report.differences}
    lost: Counter[str] = Counter()
    for loss in report.losses:
        lost[loss.campaign] += loss.count
    names = {*decided, *control, *differences, *lost}
    rows = []
    for name in sorted(names, key=lambda each: (-decided[each], each)):
        top, difference = busiest.get(name), differences.get(name)
        peak = f"{top.decided_count:,} from {_time(top.hour, zone)}" if top else ""
        changes: Sequence[int] = (0, 0, 0)
        if difference is not None:
            changes = (difference.won_count, difference.lost_count, difference.changed_count)
        shown = [f"{count:,}" if count else "" for count in changes]
        rows.append([name, f"{decided[name]:,}", f"{control[name]:,}", f"{lost[name]:,}", *shown, peak])
    unit = "hour" if report.volume_period.seconds <= 3600 else "day"
    columns = [
        *("campaign", ">contacts", ">held back", ">lost"),
        *(">won", ">no more", ">changed", f"busiest {unit}"),
    ]
    return Section("Campaigns", columns, rows, "No campaign had a candidate.")


def _losses(report: Any) -> Section:
    by_campaign: dict[str, list[str]] = {}
    for loss in sorted(report.losses, key=lambda each: -each.count):
        by_campaign.setdefault(loss.campaign, []).append(f"{reason_word(loss.reason)} {loss.count:,}")
    rows = [
        [name, ", ".join(found[:_LOSSES_SHOWN]) + (" ..." if len(found) > _LOSSES_SHOWN else "")]
        for name, found in sorted(by_campaign.items())
    ]
    return Section("Why candidates were lost", ["campaign", "reasons"], rows, "No candidate was lost.")


def _channels(report: Any, zone: tzinfo | None) -> Section:
    rows = []
    for load in report.channel_loads:
        bounded = load.HasField("capacity")
        share = f"{load.decided_count / load.capacity:.0%}" if bounded and load.capacity else ""
        pace = f"{load.peak_per_second:,}"
        if load.HasField("per_second"):
            pace += f" of {load.per_second:,}"
        hour = f"{load.busiest_hour_count:,} from {_time(load.busiest_hour, zone)}"
        capacity = f"{load.capacity:,}" if bounded else ""
        day = f"{_local(load.period_start, zone):%Y-%m-%d}"
        rows.append([load.channel, day, f"{load.decided_count:,}", capacity, share, pace, hour])
    columns = ["channel", "day", ">contacts", ">capacity", ">used", ">most in a second", "busiest hour"]
    return Section("Channels", columns, rows, "No channel was used.")


def _samples(report: Any, zone: tzinfo | None) -> Section:
    rows = []
    for difference in report.differences:
        shown: Counter[str] = Counter()
        for sample in difference.samples:
            kind = _kind(sample)
            shown[kind] += 1
            if shown[kind] > _SAMPLES_SHOWN:
                continue
            side = sample.after if sample.HasField("after") else sample.before
            what = [_side(sample.before if sample.HasField("before") else None)]
            what.append(_side(sample.after if sample.HasField("after") else None))
            rows.append(
                [
                    difference.campaign,
                    kind,
                    mask_number(side.subscriber_id),
                    f"{side.event_type}, {_time(side.occurred_at, zone)}",
                    *what,
                ]
            )
    columns = ["campaign", "what", "subscriber", "on", "baseline", "candidate"]
    return Section("Differences to look at", columns, rows)


def _kind(sample: Any) -> str:
    before = sample.HasField("before") and reason_word(sample.before.reason) == "decided"
    after = sample.HasField("after") and reason_word(sample.after.reason) == "decided"
    if before and after:
        return "changed"
    return "won" if after else "no more"


def _side(decision: Any) -> str:
    if decision is None:
        return "no candidate"
    reason = reason_word(decision.reason)
    if reason != "decided":
        return reason.replace("_", " ")
    return f"{decision.channel}: {mask_numbers(decision.content)}"


def show_report(console: Console, report: Any) -> None:
    """The report as tables, warnings first."""
    console.print(Text(headline(report), style="bold"))
    for warning in report.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))
    if report.test_send_count:
        console.print(f"{report.test_send_count} test sends were confirmed", markup=False)
    for section in sections(report):
        console.print()
        if not section.rows:
            console.print(Text(section.empty))
            continue
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
        for column in section.columns:
            table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print(table)


def report_markdown(report: Any) -> str:
    """The report as a page of Markdown. Numbers of subscribers are masked."""
    lines = [
        "# Rehearsal",
        "",
        f"Revision `{report.revision[:12]}` against `{report.baseline_revision[:12]}`, in "
        f"{report.elapsed.ToTimedelta().total_seconds():.1f} s.",
        "",
        headline(report) + ".",
        "",
        *(f"> {warning}.\n" for warning in report.warnings),
    ]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        if not section.rows:
            lines += [section.empty, ""]
            continue
        lines.append("| " + " | ".join(column.lstrip(">") for column in section.columns) + " |")
        rules = ("--:" if column.startswith(">") else "---" for column in section.columns)
        lines.append("|" + "|".join(rules) + "|")
        lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in section.rows]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def report_record(report: Any) -> dict[str, object]:
    """The report for programs. Numbers are whole, as in all JSON that commands write."""
    return {
        "revision": report.revision,
        "baseline_revision": report.baseline_revision,
        "since": _stamp(report.since),
        "until": _stamp(report.until),
        "folded_since": _stamp(report.folded_since),
        "events": report.event_count,
        "folded_events": report.folded_event_count,
        "contacts": report.decided_count,
        "control": report.control_count,
        "cost": report.cost,
        "baseline": {
            "contacts": report.baseline_decided_count,
            "control": report.baseline_control_count,
            "cost": report.baseline_cost,
        },
        "seconds": report.elapsed.ToTimedelta().total_seconds(),
        "test_sends": report.test_send_count,
        "warnings": list(report.warnings),
        "volume_seconds": report.volume_period.seconds,
        "volumes": [
            {
                "campaign": each.campaign,
                "start": _stamp(each.hour),
                "contacts": each.decided_count,
                "control": each.control_count,
            }
            for each in report.volumes
        ],
        "losses": [
            {"campaign": each.campaign, "reason": reason_word(each.reason), "count": each.count}
            for each in report.losses
        ],
        "channels": [
            {
                "channel": each.channel,
                "day": _stamp(each.period_start),
                "contacts": each.decided_count,
                "capacity": each.capacity if each.HasField("capacity") else None,
                "peak_per_second": each.peak_per_second,
                "per_second": each.per_second if each.HasField("per_second") else None,
                "busiest_hour": _stamp(each.busiest_hour),
                "busiest_hour_contacts": each.busiest_hour_count,
            }
            for each in report.channel_loads
        ],
        "differences": [
            {
                "campaign": each.campaign,
                "won": each.won_count,
                "lost": each.lost_count,
                "changed": each.changed_count,
                "samples": [
                    {
                        "before": decision_record(sample.before) if sample.HasField("before") else None,
                        "after": decision_record(sample.after) if sample.HasField("after") else None,
                    }
                    for sample in each.samples
                ],
            }
            for each in report.differences
        ],
    }


def _zone(report: Any) -> tzinfo | None:
    try:
        return ZoneInfo(report.time_zone)
    except (ValueError, ZoneInfoNotFoundError):
        return None  # that of this machine


def _local(stamp: Any, zone: tzinfo | None) -> datetime:
    return from_timestamp(stamp).astimezone(zone)


def _time(stamp: Any, zone: tzinfo | None) -> str:
    return f"{_local(stamp, zone):%Y-%m-%d %H:%M}"


def _stamp(stamp: Any) -> str:
    return from_timestamp(stamp).isoformat().replace("+00:00", "Z")


def _signed(count: int) -> str:
    return f"{count:+,}" if count else "±0"
