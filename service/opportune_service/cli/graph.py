"""`opportune graph`: a rulebase as a picture."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase import load
from opportune_rulebase.graph import graph
from opportune_rulebase.graph_svg import svg

from opportune_service.cli.rulebase_files import RulebasePath, read_files, write_text
from opportune_service.cli.terminal import ExitCode, out, stop


def graph_command(
    path: RulebasePath,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.svg", dir_okay=False, help="[default: standard output]"),
    ] = None,
    campaign: Annotated[
        str, typer.Option(metavar="NAME", help="Only this campaign, with all that it reads.")
    ] = "",
) -> None:
    """Draw what reads what in a rulebase, as an SVG that any browser shows.

    From left to right: events and attributes; metrics, patterns and facts; behaviours and scenes;
    campaigns. Coloured arrows lead from an event to what it triggers, grey ones from a value to what reads
    it. Point at a box or an arrow for its whole name.

    Ends with 0 if it was drawn, 1 if the rulebase has errors or there is no such campaign, 5 if there is no
    rulebase that can be read, 2 for a wrong command line.

    Example: opportune graph my-rulebase --campaign mms-bundle --out mms-bundle.svg
    """
    rulebase = load(read_files(path))
    if campaign and campaign not in rulebase.campaigns:
        near = get_close_matches(campaign, rulebase.campaigns, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        stop(ExitCode.NO, f"There is no campaign {campaign!r}.{hint}")
    drawn = graph(rulebase, campaign)
    picture = svg(drawn)
    if out_file is None:
        typer.echo(picture, nl=False)
    else:
        write_text(out_file, picture)
        out().print(f"{out_file}: {len(drawn.nodes)} boxes, {len(drawn.edges)} arrows", markup=False)
