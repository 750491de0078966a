"""`opportune doctor`: is everything in place for the service to run well here?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import typer
from pydantic import ValidationError
from rich.text import Text

from opportune_service.cli.commands import settings_fault
from opportune_service.cli.doctor_callers import callers
from opportune_service.cli.doctor_host import disk, ports, tls
from opportune_service.cli.doctor_stores import ledger, live_state
from opportune_service.cli.findings import Finding, Status
from opportune_service.cli.options import JsonOption
from opportune_service.cli.settings import ConfigOption
from opportune_service.cli.terminal import ExitCode, out, print_json
from opportune_service.settings import Settings

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAULT: "bold red"}
_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    *(ports, tls, callers),
    *(disk, ledger, live_state),
)


def doctor_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Look at everything that the service needs, with the settings that it would have here.

    That is the settings, addresses, TLS files, callers, disk, ledger with its tables and clock, live state,
    and the active rulebase with its calendar. Changes nothing, so it may be run beside the service; of a
    ledger in a file little can be seen then. Ends with 0 if there is no fault, 1 if there is one.

    Example: opportune doctor --config /etc/opportune/opportune.toml
    """
    options: dict[str, Any] = {} if config is None else {"config": config}
    try:
        settings = Settings(**options)
    except ValidationError as error:
        findings = [
            Finding("settings", Status.FAULT, settings_fault(error), "mend them, then run this again")
        ]
    else:
        findings = [Finding("settings", Status.OK, "all are known and valid; see: opportune settings")]
        for check in _CHECKS:
            findings += check(settings)
    if json:
        print_json([each.record() for each in findings])
    else:
        _show(findings)
    if any(each.status is Status.FAULT for each in findings):
        raise typer.Exit(ExitCode.NO)


def _show(findings: list[Finding]) -> None:
    console = out()
    for each in findings:
        console.print(
            Text.assemble(
                (f"{each.status:8}", _STYLES[each.status]), (f"{each.subject:12}", "bold"), each.text
            )
        )
        if each.advice:
            console.print(Text(f"{'':20}-> {each.advice}", style="cyan"))
