"""`opportune report`: what campaigns did, and with what effect."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from opportune_client import OperatorClient, from_timestamp
from rich.table import Table
from rich.text import Text

from opportune_service.cli.decisions import reason_word
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, ShadowOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.report_svg import STAGES, Pictured, report_svg
from opportune_service.cli.rulebase_files import write_text
from opportune_service.cli.terminal import ExitCode, mask_numbers, out, print_json, stop

_DEADLINE_SECONDS = 120.0
_RATES = ("success_rate", "inquiry_rate", "complaint_rate", "uplift", "uplift_over_mass")


class Cut(StrEnum):
    """How a report is cut into periods."""

    WHOLE = "whole"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


def report_command(
    campaigns: Annotated[
        list[str] | None, typer.Argument(metavar="[CAMPAIGN]...", help="Only these. [default: all]")
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="2026-11-01, or with a time and zone. [default: 7 days ago]")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Exclusive. [default: now]")] = "",
    by: Annotated[Cut, typer.Option(help="One line for each such period.")] = Cut.WHOLE,
    csv_: Annotated[bool, typer.Option("--csv", help="Comma-separated values with all columns.")] = False,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE.svg", dir_okay=False, help="Also draw funnels and uplift."),
    ] = None,
    shadow: ShadowOption = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Report what campaigns did: the funnel from event to order, why candidates were lost, and the effect.

    Rates are shares of what was sent. Uplift compares all that a campaign chose, sent or not, with its
    control groups; a figure whose 95 % interval spans 0 is not told apart from chance, and is shown dim.
    Periods are of the rulebase's time zone.

    Ends with 0; 1 if there is no such campaign or the time is empty.

    Example: opportune report --since 2026-11-01 --by week --svg november.svg
    """
    if json and csv_:
        stop(ExitCode.USAGE, "Give --json or --csv, not both.")
    end = _instant(until, "--until") if until else None  # by the service's clock
    begin = _instant(since, "--since") if since else (end or datetime.now(UTC)) - timedelta(days=7)
    with service(target) as channel:
        answer = OperatorClient(channel).report(
            campaigns or (),
            since=begin,
            until=end,
            period=by.value,
            shadow=shadow,
            timeout=_DEADLINE_SECONDS,
        )
    if svg is not None:
        last = max((from_timestamp(each.period_end) for each in answer.reports), default=begin)
        title = f"{begin:%Y-%m-%d} to {last.astimezone(begin.tzinfo):%Y-%m-%d}"
        write_text(svg, report_svg(_pictured(answer.reports), title))
    if json:
        print_json(report_record(answer))
    elif csv_:
        typer.echo(_csv(answer.reports), nl=False)
    else:
        _show(answer, by)


def _instant(text: str, option: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        stop(
            ExitCode.USAGE,
            f"{option}: {mask_numbers(text)!r} is no time; write 2026-11-01 or 2026-11-01T08:00+08:00",
        )
    return instant if instant.tzinfo else instant.astimezone()


def _show(answer: Any, by: Cut) -> None:
    cut = by is not Cut.WHOLE
    funnels = _table(cut, ("events", *STAGES, "success", "complaints"))
    funnels.add_column("lost most to")
    for each in answer.reports:
        lost = sorted(each.losses, key=lambda loss: -loss.count)[:2]
        funnels.add_row(
            *_heading(each, cut),
            f"{each.event_count:,}",
            *(f"{count:,}" for count in _stages(each)),
            _percent(each, "success_rate"),
            _percent(each, "complaint_rate"),
            ", ".join(f"{reason_word(loss.reason)} {loss.count:,}" for loss in lost),
        )
    out().print(funnels if answer.reports else "There are no campaigns.")
    compared = [
        each for each in answer.reports if each.HasField("uplift") or each.HasField("uplift_over_mass")
    ]
    if compared:
        effects = _table(cut, ("chosen", "ordered", "held back", "ordered", "uplift", "over mass"))
        for each in compared:
            effects.add_row(
                *_heading(each, cut),
                *(f"{count:,}" for count in (each.treated_count, each.treated_converted_count)),
                *(f"{count:,}" for count in (each.control_count, each.control_converted_count)),
                *(_difference(each, rate) for rate in ("uplift", "uplift_over_mass")),
            )
        out().print("", effects)
    if answer.channel_loads:
        loads = Table("channel", "from", "decided", "capacity", "busiest second", box=None)
        for load in answer.channel_loads:
            loads.add_row(
                load.channel,
                f"{from_timestamp(load.period_start).astimezone():%Y-%m-%d %H:%M}",
                f"{load.decided_count:,}",
                f"{load.capacity:,}" if load.HasField("capacity") else "",
                f"{load.peak_per_second:,}",
            )
        out().print("", loads)
    if answer.contact_frequencies:
        often = ", ".join(
            f"{each.contact_count}: {each.subscriber_count:,}" for each in answer.contact_frequencies
        )
        out().print(f"\nSubscribers by number of contacts: {often}", markup=False)
    out().print(f"Intervals: {answer.interval_method}", style="dim", markup=False)


def _table(cut: bool, numbers: Sequence[str]) -> Table:
    """A line for each campaign, or for each of its periods."""
    table = Table("campaign", *(["from"] if cut else []), box=None)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _heading(each: Any, cut: bool) -> list[Text]:
    start = from_timestamp(each.period_start).astimezone()
    return [Text(each.campaign_label or each.campaign), *([Text(f"{start:%m-%d %H:%M}")] if cut else [])]


def _stages(each: Any) -> tuple[int, ...]:
    return tuple(getattr(each, f"{stage}_count") for stage in STAGES)


def _percent(each: Any, rate: str) -> str:
    return f"{100 * getattr(each, rate).value:.1f} %" if each.HasField(rate) else ""


def _difference(each: Any, rate: str) -> Text:
    if not each.HasField(rate):
        return Text("")
    estimate = getattr(each, rate)
    style = "green" if estimate.low > 0 else "red" if estimate.high < 0 else "dim"
    interval = f"({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    return Text(f"{100 * estimate.value:+.1f} {interval}", style)


def _pictured(reports: Sequence[Any]) -> list[Pictured]:
    several = len({each.period_start.seconds for each in reports}) > 1
    return [
        Pictured(
            name=(each.campaign_label or each.campaign)
            + (f" {from_timestamp(each.period_start).astimezone():%m-%d}" if several else ""),
            stages=_stages(each),
            uplift=(each.uplift.value, each.uplift.low, each.uplift.high)
            if each.HasField("uplift")
            else None,
        )
        for each in reports
    ]


def report_record(answer: Any) -> dict[str, object]:
    """A report for programs. What cannot be told is null."""
    return {
        "campaigns": [_record(each) for each in answer.reports],
        "channels": [
            {
                "channel": load.channel,
                "from": _iso(load.period_start),
                "decided": load.decided_count,
                "capacity": load.capacity if load.HasField("capacity") else None,
                "peak_per_second": load.peak_per_second,
            }
            for load in answer.channel_loads
        ],
        "subscribers_by_contacts": {
            str(each.contact_count): each.subscriber_count for each in answer.contact_frequencies
        },
        "interval_method": answer.interval_method,
    }


def _record(each: Any) -> dict[str, object]:
    return {
        "campaign": each.campaign,
        "label": each.campaign_label,
        "from": _iso(each.period_start),
        "until": _iso(each.period_end),
        "events": each.event_count,
        **dict(zip(STAGES, _stages(each), strict=True)),
        "lost": {reason_word(loss.reason): loss.count for loss in each.losses},
        "treated": each.treated_count,
        "treated_converted": each.treated_converted_count,
        "control": each.control_count,
        "control_converted": each.control_converted_count,
        "cost": each.cost,
        **{rate: _estimate(each, rate) for rate in _RATES},
    }


def _estimate(each: Any, rate: str) -> dict[str, float] | None:
    if not each.HasField(rate):
        return None
    found = getattr(each, rate)
    return {"value": found.value, "low": found.low, "high": found.high}


def _csv(reports: Sequence[Any]) -> str:
    """A line for each campaign and period; a rate takes three columns, a reason one."""
    records = [_record(each) for each in reports]
    reasons = sorted({reason for record in records for reason in _mapping(record["lost"])})
    text = io.StringIO()
    plain = [name for name in (records[0] if records else ()) if name not in (*_RATES, "lost")]
    ends = [f"{rate}{end}" for rate in _RATES for end in ("", "_low", "_high")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, *(f"lost_{reason}" for reason in reasons), *ends])
    for record in records:
        lost = _mapping(record["lost"])
        rates = [_mapping(record[rate]) for rate in _RATES]
        writer.writerow(
            [
                *(record[name] for name in plain),
                *(lost.get(reason, 0) for reason in reasons),
                *(rate.get(end, "") for rate in rates for end in ("value", "low", "high")),
            ]
        )
    return text.getvalue()


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _iso(stamp: Any) -> str:
    return from_timestamp(stamp).isoformat().replace("+00:00", "Z")
