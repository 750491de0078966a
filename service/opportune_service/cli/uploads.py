"""`opportune rulebases upload`, `order`, `test` and `approve`: what a revision needs before it decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from opportune_client import OperatorClient, RequestError, pack_rulebase

from opportune_service.cli.completions import RevisionArgument
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.problems import problem_record, show_problems
from opportune_service.cli.remote import service
from opportune_service.cli.revisions import DEADLINE_SECONDS, whole_revision
from opportune_service.cli.rulebase_files import RulebasePath
from opportune_service.cli.rulebase_view import (
    problem_of,
    rulebase_record,
    short,
    show_tests,
    state_word,
    tests_record,
)
from opportune_service.cli.terminal import ExitCode, err, out, print_json, stop

CommentOption = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.")]


def upload_command(
    path: RulebasePath,
    signature: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="A detached signature of the zip archive."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only have the service check it; store nothing.")
    ] = False,
    comment: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for; whoever approves it reads this.")
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Store a rulebase as a revision. Nothing decides by it yet; uploading it again changes nothing.

    Ends with 1 if it has errors: each is shown with its place, and nothing is stored.

    Example: opportune rulebases upload my-rulebase --comment "two evenings a week"
    """
    if signature is not None and path.is_dir():
        stop(ExitCode.USAGE, "A signature is one of an archive: name the zip file, not the directory.")
    data = _packed(path)
    signed = signature.read_bytes() if signature is not None else b""
    with service(target) as channel:
        client = OperatorClient(channel)
        if dry_run:
            _show_check(client.check(data, signature=signed), json=json)
            return
        try:
            answer = client.upload(data, signature=signed, comment=comment)
        except RequestError as error:
            report = client.check(data, signature=signed)
            if report.valid:  # it is no error of the rulebase
                raise
            show_problems(err(), map(problem_of, report.problems))
            stop(ExitCode.NO, f"Nothing was stored: {error.args[0]}")
    _show_upload(answer, json=json)


def _packed(path: Path) -> bytes:
    try:
        return pack_rulebase(path) if path.is_dir() else path.read_bytes()
    except (ValueError, OSError) as error:
        stop(ExitCode.UNREADABLE, str(error))


def _show_check(report: Any, *, json: bool) -> None:
    if json:
        print_json(
            {
                "ok": report.valid,
                "revision": report.revision,
                "problems": [problem_record(problem_of(each)) for each in report.problems],
            }
        )
    else:
        show_problems(out(), map(problem_of, report.problems))
        said = f"it would be revision {short(report.revision)}" if report.valid else "it has errors"
        out().print(said, style="green" if report.valid else "bold red", markup=False)
    if not report.valid:
        raise typer.Exit(ExitCode.NO)


def _show_upload(answer: Any, *, json: bool) -> None:
    rulebase = answer.rulebase
    warnings = [problem_of(each) for each in rulebase.warnings]
    if json:
        record = rulebase_record(rulebase) | {
            "already_known": answer.already_known,
            "warnings": [problem_record(each) for each in warnings],
        }
        print_json(record)
        return
    show_problems(err(), warnings)
    known = "was known already" if answer.already_known else "is stored"
    said = f"revision {short(rulebase.revision)} {known}: {state_word(rulebase.state)}"
    out().print(said, markup=False)


def order_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="The campaign, in the rulebase language."
        ),
    ],
    order_id: Annotated[
        str, typer.Option(metavar="ID", help="The planning system's number.", show_default=False)
    ],
    bind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SCENE",
            help="A name of the planning system and the one in the rulebase, as payday=scene.pay_day. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            metavar="REVISION",
            help="What it is added to. [default: the one in full force]",
            show_default=False,
        ),
    ] = "",
    comment: CommentOption = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Store a work order: a revision with one campaign more. It is a draft until all its names are bound.

    Ends with 1 if it has other errors; nothing is stored then.

    Example: opportune rulebases order payday.yaml --order-id 4711 --bind payday=scene.pay_day
    """
    bindings = dict(_binding(each) for each in bind or ())
    try:
        document = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        stop(ExitCode.UNREADABLE, f"{file} cannot be read: {error}")
    with service(target) as channel:
        client = OperatorClient(channel)
        answer = client.order(
            order_id,
            document,
            scene_bindings=bindings,
            base_revision=whole_revision(client, base) if base else "",
            comment=comment,
        )
    _show_upload(answer, json=json)


def _binding(text: str) -> tuple[str, str]:
    name, sign, scene = (part.strip() for part in text.partition("="))
    if not (name and sign and scene):
        stop(ExitCode.USAGE, f"{text!r} binds nothing; write it as payday=scene.pay_day")
    return name, scene


def run_tests_command(
    revision: RevisionArgument,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only cases whose name or file contains it.")
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Run the tests that a stored revision carries, by the service itself. If all pass, it is tested.

    Ends with 1 if one fails, or there is none.

    Example: opportune rulebases test 3f6c0d1b
    """
    with service(target) as channel:
        client = OperatorClient(channel)
        answer = client.test(whole_revision(client, revision), only=only)
    if json:
        print_json(tests_record(answer))
    else:
        show_tests(out(), answer)
    if not answer.passed:
        raise typer.Exit(ExitCode.NO)


def approve_command(
    revision: RevisionArgument,
    comment: CommentOption = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Approve a revision whose tests have passed, which somebody else has uploaded.

    Look at it before: opportune rulebases diff, and opportune rehearse. Ends with 1 if it is not yours to
    approve, or not ready.

    Example: opportune rulebases approve 3f6c0d1b --comment "as agreed on Tuesday"
    """
    with service(target) as channel:
        client = OperatorClient(channel)
        whole = whole_revision(client, revision)
        rulebase = client.approve(whole, comment=comment, timeout=DEADLINE_SECONDS)
    if json:
        print_json(rulebase_record(rulebase))
    else:
        said = f"revision {short(rulebase.revision)} is approved, by {rulebase.approver}"
        out().print(said, markup=False)
