"""`opportune rulebases activate` and `rollback`: which revisions decide."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from opportune_client import ActivationMode, OperatorClient

from opportune_service.cli.completions import RevisionArgument, revisions
from opportune_service.cli.diff import show_changes
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.revisions import (
    DEADLINE_SECONDS,
    current_revision,
    whole_revision,
)
from opportune_service.cli.rulebase_view import (
    activation_record,
    change_of,
    how,
    short,
    show_in_force,
    show_rulebases,
)
from opportune_service.cli.terminal import ExitCode, err, out, print_json, stop
from opportune_service.cli.uploads import CommentOption

_ExpectOption = Annotated[
    str,
    typer.Option(
        metavar="REVISION",
        help="Only if this one is in full force. [default: the one that is when the command begins]",
        show_default=False,
    ),
]
_YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def activate_command(
    revision: RevisionArgument,
    canary: Annotated[
        str, typer.Option(metavar="PERCENT", help="Decide for this share of the subscribers, as 10%.")
    ] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Decide apart from what is real, and contact nobody.")
    ] = False,
    expect: _ExpectOption = "",
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Fill metrics that are new with it from the log of events.")
    ] = False,
    comment: CommentOption = "",
    yes: _YesOption = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Let a revision decide: for everybody, or for a share, or apart. Shows what changes, and asks.

    For everybody, it also ends canary and shadow. Ends with 1 if you say no, if it is not ready (such as
    not approved), or if another revision is in force than was expected; what was in force then stays so.

    Example: opportune rulebases activate 3f6c0d1b --canary 10% --comment "a week at ten percent"
    """
    share = _share(canary)
    if shadow and canary:
        stop(ExitCode.USAGE, "A revision is a canary or a shadow: give --canary or --shadow, not both.")
    mode = _mode(share, shadow=shadow)
    with service(target) as channel:
        client = OperatorClient(channel)
        whole = whole_revision(client, revision)
        current = whole_revision(client, expect) if expect else current_revision(client)
        _confirm(client, whole, current, f"Let {short(whole)} {_asked(mode, share)}?", yes=yes)
        answer = client.activate(
            whole,
            expected_current=current,
            mode=mode,
            canary_share=share,
            backfill=backfill,
            comment=comment,
            request_id=uuid.uuid4().hex,
        )
    _show_activation(answer, json=json)


def rollback_command(
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION",
            help="Its first 8 hex digits or more. [default: the one that was in full force before]",
            show_default=False,
            autocompletion=revisions,
        ),
    ] = "",
    expect: _ExpectOption = "",
    comment: CommentOption = "",
    yes: _YesOption = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Go back to a revision that was in full force, at once for everybody; ends canary and shadow. Asks.

    Ends with 1 if you say no, if there is none to go back to, or if another revision is in force than was
    expected.

    Example: opportune rulebases rollback --comment "twice as many messages as rehearsed"
    """
    with service(target) as channel:
        client = OperatorClient(channel)
        whole = whole_revision(client, revision) if revision else ""
        current = whole_revision(client, expect) if expect else current_revision(client)
        to = short(whole) if whole else "the revision that was in full force before"
        _confirm(client, whole, current, f"Go back to {to}?", yes=yes)
        answer = client.rollback(
            whole, expected_current=current, comment=comment, request_id=uuid.uuid4().hex
        )
    _show_activation(answer, json=json)


def _share(text: str) -> float:
    """0 for "". Ends the command if it is no share."""
    if not text:
        return 0.0
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not (text.endswith("%") and 0 < share < 1):
        stop(ExitCode.USAGE, f"{text!r} is no share: give one above 0% and below 100%, as 10%.")
    return share


def _mode(share: float, *, shadow: bool) -> ActivationMode:
    if shadow:
        return ActivationMode.SHADOW
    return ActivationMode.CANARY if share else ActivationMode.FULL


def _asked(mode: ActivationMode, share: float) -> str:
    if mode is ActivationMode.SHADOW:
        return "run as a shadow, which contacts nobody"
    return f"decide for {100 * share:g} % of the subscribers" if share else "decide for everybody"


def _confirm(client: OperatorClient, revision: str, current: str, question: str, *, yes: bool) -> None:
    """Shows what is in force and what would change, and asks. All of it is no part of the answer."""
    if yes:
        return
    console = err()
    if current:
        show_in_force(console, client.get(current, timeout=DEADLINE_SECONDS).activations)
    if revision:
        show_rulebases(console, [client.get(revision, timeout=DEADLINE_SECONDS).rulebase])
    if current and revision and current != revision:
        changes = client.diff(revision, current, timeout=DEADLINE_SECONDS)
        show_changes(console, [change_of(each) for each in changes])
    if not typer.confirm(question, err=True):
        stop(ExitCode.NO, "Nothing was changed.")


def _show_activation(answer: Any, *, json: bool) -> None:
    if json:
        print_json(
            {
                "activation": activation_record(answer.activation),
                "previous": answer.previous_revision,
                "in_force": [activation_record(each) for each in answer.activations],
            }
        )
        return
    before = answer.previous_revision
    time = "is in full force" if answer.activation.mode != ActivationMode.FULL else "was so before"
    place = f"; {short(before)} {time}" if before else ""
    said = f"revision {short(answer.activation.revision)} is in force, {how(answer.activation)}{place}"
    out().print(said, markup=False)
