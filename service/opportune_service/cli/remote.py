"""Commands that ask a running service: advise, tail, explain, reload, health."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opportune_client import CrmClient, OperatorClient, RequestError, pack_rulebase
from opportune_client.errors import NotFoundError, translated
from rich.text import Text

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.rulebases import check
from opportune_service.cli.connection import connected
from opportune_service.cli.decisions import decision_record, show_trace, tell, trace_record
from opportune_service.cli.options import (
    DEFAULT_TARGET,
    JsonOption,
    RulebaseArgument,
    ShadowOption,
    TargetOption,
)
from opportune_service.cli.problems import show_problems
from opportune_service.cli.terminal import ExitCode, err, out, print_json, stop

_HEALTH_SECONDS = 3.0
_DEADLINE_SECONDS = 10.0


@contextmanager
def service(target: str) -> Iterator[grpc.Channel]:
    """A channel to the running service; see `connected`."""
    with connected(target) as channel:
        yield channel


def advise_command(
    subscriber: Annotated[
        str, typer.Argument(metavar="SUBSCRIBER", help="Digits of the number, no plus sign.")
    ],
    at: Annotated[str, typer.Option("--at", metavar="CHANNEL", help="The touch point.")] = "counter",
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Names the visit; the same id again gives the same answer.")
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Ask what may be offered to a customer who is at a touch point now. What is shown counts as a contact.

    Ends with 0 also if there is nothing to offer.

    Example: opportune advise 8613800000001 --at counter
    """
    with service(target) as channel:
        answer = CrmClient(channel).advise(
            subscriber, at, request_id=request_id or uuid.uuid4().hex, timeout=_DEADLINE_SECONDS
        )
    if json:
        print_json(
            [
                {
                    "decision_id": advice.decision_id,
                    "campaign": advice.campaign,
                    "campaign_label": advice.campaign_label,
                    "product": advice.product,
                    "content": advice.content,
                    "reasons": list(advice.reasons),
                }
                for advice in answer.advices
            ]
        )
        return
    console = out()
    if not answer.advices:
        console.print("Nothing: leave this customer alone.")
    for number, advice in enumerate(answer.advices, 1):
        console.print(
            Text.assemble(f"{number}. ", (advice.campaign_label or advice.campaign, "bold green"))
        )
        console.print(Text(f"   say:      {advice.content}"))
        console.print(Text(f"   because:  {', '.join(advice.reasons) or 'the customer is here'}"))
        console.print(Text(f"   decision: {advice.decision_id}", style="dim"))


def tail_command(
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, help="Begin with the last N.")] = 10,
    follow: Annotated[bool, typer.Option(help="Go on as decisions are recorded.")] = True,
    subscriber: Annotated[str, typer.Option(metavar="SUBSCRIBER", help="Only of this subscriber.")] = "",
    campaign: Annotated[str, typer.Option(metavar="NAME", help="Only of this campaign.")] = "",
    shadow: ShadowOption = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Show decisions, and candidates that were lost, as they are recorded. Ctrl-C ends it.

    Numbers are masked; with --json, which writes one object a line, they are not.

    Example: opportune tail --campaign mms-bundle
    """
    with service(target) as channel, suppress(KeyboardInterrupt):
        client = OperatorClient(channel)
        shown: set[str] = set()

        def show_last() -> None:
            past = client.list_decisions(
                subscriber_id=subscriber,
                campaign=campaign,
                include_trace=True,
                page_size=max(1, min(last, 1_000)),
                shadow=shadow,
            )
            for decision in reversed(list(islice(past, last))):
                shown.add(decision.decision_id)
                _print_decision(decision, json=json)

        if not follow:
            show_last()
            return
        # The last ones are shown once the follower has its place, so that none falls in between.
        begin = _once(show_last)

        def pause(seconds: float) -> None:
            begin()
            time.sleep(seconds)

        for decision in client.follow_decisions(
            subscriber_id=subscriber, campaign=campaign, include_trace=True, shadow=shadow, pause=pause
        ):
            begin()
            if decision.decision_id not in shown:
                _print_decision(decision, json=json)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """Does it the first time it is called."""
    pending = [action]

    def act() -> None:
        while pending:
            pending.pop()()

    return act


def _print_decision(decision: object, *, json: bool) -> None:
    if json:
        print_json(decision_record(decision))
    else:
        out().print(tell(decision).text())


def explain_command(
    decision_id: Annotated[str, typer.Argument(metavar="DECISION_ID", help="As tail and advise show it.")],
    shadow: ShadowOption = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Explain a decision: what held, what every policy said, and how the other candidates ended.

    Ends with 1 if there is no such decision.

    Example: opportune explain 3f6c0d1be2a94c7788a0b1c2
    """
    with service(target) as channel:
        verdict = OperatorClient(channel).explain(decision_id, shadow=shadow, timeout=_DEADLINE_SECONDS)
    if json:
        print_json(
            {
                "subscriber_id": verdict.subscriber_id,
                "source": verdict.source,
                "event_id": verdict.event_id,
                "event_type": verdict.event_type,
                "revision": verdict.revision,
                "decisions": [trace_record(decision) for decision in verdict.decisions],
            }
        )
        return
    console = out()
    asked = [decision for decision in verdict.decisions if decision.decision_id == decision_id]
    others = [decision for decision in verdict.decisions if decision.decision_id != decision_id]
    console.print(
        Text(
            f"{verdict.event_type} of {verdict.subscriber_id}, event {verdict.event_id} of source "
            f"{verdict.source}, revision {verdict.revision[:12]}",
            style="bold",
        )
    )
    for decision in asked:
        show_trace(console, decision)
    if others:
        console.print(Text("other candidates of the same event", style="bold"))
    for decision in others:
        show_trace(console, decision)


def reload_command(
    directory: RulebaseArgument,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Upload a rulebase to the running service and activate it, unless somebody else does so meanwhile.

    Ends with 1 if it has errors or another revision came in between; what was active then stays so.

    Example: opportune reload rulebase/packs/gprs-precision --comment "new quiet hours"
    """
    report = check(read_rulebase(directory), datetime.now(UTC).date())
    show_problems(err(), report.problems)
    if report.rulebase is None:
        stop(ExitCode.NO, "The rulebase has errors; nothing was sent.")
    try:
        archive = pack_rulebase(directory)
    except ValueError as error:
        stop(ExitCode.NO, str(error))
    with service(target) as channel:
        client = OperatorClient(channel)
        try:
            current = client.get(timeout=_DEADLINE_SECONDS).rulebase.revision
        except NotFoundError:
            current = ""
        try:
            revision = client.upload(archive, comment=comment).rulebase.revision
        except RequestError as error:
            stop(ExitCode.NO, f"The service refuses the rulebase: {error}")
        if revision != current:
            client.activate(revision, expected_current=current, comment=comment, backfill=True)
    if json:
        print_json({"revision": revision, "previous": current, "changed": revision != current})
    elif revision == current:
        out().print(f"revision {revision[:12]} is active already", markup=False)
    else:
        before = f", in place of {current[:12]}" if current else ""
        out().print(f"revision {revision[:12]} is active{before}", markup=False)


def health_command(target: TargetOption = DEFAULT_TARGET) -> None:
    """Ask whether the service is ready. Ends with 0 if it is, 1 if it says no, 3 if it does not answer.

    Example: opportune health --target 127.0.0.1:50051
    """
    with service(target) as channel, translated():
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        stop(ExitCode.NO, "The service is not ready.")
    out().print("ready")
