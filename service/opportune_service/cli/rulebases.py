"""`opportune rulebases`: the revisions that a running service keeps, and which of them decide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from opportune_client import OperatorClient, RulebaseState

from opportune_service.cli.activations import activate_command, rollback_command
from opportune_service.cli.completions import RevisionArgument, revisions
from opportune_service.cli.diff import change_record, show_changes
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.revisions import DEADLINE_SECONDS, whole_revision
from opportune_service.cli.rulebase_view import (
    change_of,
    event_record,
    event_text,
    rulebase_record,
    show_rulebases,
    show_whole,
    whole_record,
)
from opportune_service.cli.terminal import ExitCode, out, print_json, stop
from opportune_service.cli.uploads import approve_command, order_command, run_tests_command, upload_command

_STATES = {state.name.lower(): state for state in RulebaseState}


def list_command(
    state: Annotated[
        str, typer.Option(metavar="STATE", help=f"Only those that are so: {', '.join(_STATES)}.")
    ] = "",
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="The newest N.")] = 20,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """List revisions, newest first, and how far each has come. With --json one object a line.

    Example: opportune rulebases list --state approved
    """
    if state and state not in _STATES:
        stop(ExitCode.USAGE, f"There is no state {state!r}; use one of: {', '.join(_STATES)}")
    with service(target) as channel:
        found = OperatorClient(channel).list_rulebases(
            state=_STATES.get(state), page_size=min(last, 1_000), timeout=DEADLINE_SECONDS
        )
        rows = list(islice(found, last))
    if json:
        for row in rows:
            print_json(rulebase_record(row))
    elif not rows:
        out().print("There is none.")
    else:
        show_rulebases(out(), rows)


def show_command(
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION",
            help="Its first 8 hex digits or more. [default: the one in full force]",
            show_default=False,
            autocompletion=revisions,
        ),
    ] = "",
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Also write its files there, as a zip archive."),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Show one revision: its history with who and why, its paused campaigns, and what is in force.

    Ends with 1 if there is no such revision, or none is in force.

    Example: opportune rulebases show 3f6c0d1b
    """
    with service(target) as channel:
        client = OperatorClient(channel)
        whole = whole_revision(client, revision) if revision else ""
        answer = client.get(whole, include_archive=archive is not None, timeout=DEADLINE_SECONDS)
    if archive is not None:
        try:
            archive.write_bytes(answer.archive.data)
        except OSError as error:
            stop(ExitCode.NO, f"{archive} cannot be written: {error.strerror or error}")
    if json:
        print_json(whole_record(answer))
    else:
        show_whole(out(), answer)


def diff_command(
    revision: RevisionArgument,
    since: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="REVISION",
            help="Compare with this one. [default: the one in full force]",
            show_default=False,
        ),
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Say what changes with a revision, as an analyst thinks of it: whom it reaches, and through what.

    Ends with 0 also if nothing changes.

    Example: opportune rulebases diff 3f6c0d1b
    """
    with service(target) as channel:
        client = OperatorClient(channel)
        earlier = whole_revision(client, since) if since else ""
        found = client.diff(whole_revision(client, revision), earlier, timeout=DEADLINE_SECONDS)
    changes = [change_of(each) for each in found]
    if json:
        print_json([change_record(each) for each in changes])
    else:
        show_changes(out(), changes)


def watch_command(target: TargetOption = DEFAULT_TARGET, json: JsonOption = False) -> None:
    """Show what is in force, then each activation, failed activation, pause and resumption as it happens.

    Ctrl-C ends it. Ends with 3 if the service goes away. With --json one object a line.

    Example: opportune rulebases watch
    """
    with service(target) as channel, suppress(KeyboardInterrupt):
        for event in OperatorClient(channel).watch():
            if json:
                print_json(event_record(event))
            else:
                out().print(event_text(event))


rulebases = typer.Typer(
    name="rulebases",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "See and change the rulebases of a running service: which revisions there are, which decide.\n\n"
        "Example: opportune rulebases list"
    ),
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "show": show_command,
    "upload": upload_command,
    "order": order_command,
    "test": run_tests_command,
    "diff": diff_command,
    "approve": approve_command,
    "activate": activate_command,
    "rollback": rollback_command,
    "watch": watch_command,
}
for name, command in _COMMANDS.items():
    rulebases.command(name)(command)
