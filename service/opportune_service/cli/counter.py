"""`opportune counter`: a clerk's screen. Type a number, see what to offer, press a key for the outcome."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from opportune_client import CrmClient, OutcomeKind
from opportune_client.errors import OpportuneError, RequestError
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from opportune_service.cli.options import DEFAULT_TARGET, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, mask_number, mask_numbers, out, stop

_DEADLINE_SECONDS = 5.0
_OUTCOMES = {
    "a": OutcomeKind.ACCEPTED,
    "r": OutcomeKind.REFUSED,
    "l": OutcomeKind.LATER,
    "n": OutcomeKind.NOT_OFFERED,
}
_WORDS = {kind: kind.name.lower().replace("_", " ") for kind in _OUTCOMES.values()}
_KEYS = ", ".join(f"[{key}] {_WORDS[kind]}" for key, kind in _OUTCOMES.items())
_BY_NAME = {kind.name.lower().replace("_", "-"): kind for kind in _OUTCOMES.values()}


def counter_command(
    at: Annotated[str, typer.Option("--at", metavar="CHANNEL", help="The touch point.")] = "counter",
    agent: Annotated[str, typer.Option(metavar="NAME", help="Who asks, for the audit.")] = "",
    subscriber: Annotated[
        str, typer.Option(metavar="SUBSCRIBER", help="Serve this one only, without asking.")
    ] = "",
    outcome: Annotated[
        str,
        typer.Option(
            metavar="OUTCOME",
            help=f"With --subscriber: of the best offer ({', '.join(_BY_NAME)}); others were not offered.",
        ),
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """A counter in the terminal: type a number, see what to offer and why, press a key for the outcome.

    What is shown counts as a contact, unless it was not offered. An empty line ends it. Numbers are masked.

    Example: opportune counter --agent clerk-12
    """
    if outcome and (outcome not in _BY_NAME or not subscriber):
        stop(ExitCode.USAGE, f"--outcome goes with --subscriber and is one of: {', '.join(_BY_NAME)}")
    console = out()
    with service(target) as channel:
        counter = _Counter(CrmClient(channel), console, at, agent)
        if subscriber:
            advices = counter.ask(subscriber)
            if outcome:
                said = [_BY_NAME[outcome], *[OutcomeKind.NOT_OFFERED] * (len(advices) - 1)]
                counter.report(zip(advices, said, strict=False))
            elif sys.stdin.isatty():
                counter.talk(advices)
            return
        while number := _number(console):
            # One customer whom the service does not take must not close the counter.
            try:
                counter.talk(counter.ask(number))
            except RequestError as error:
                console.print(Text(str(error), style="red"))


class _Counter:
    """What a clerk does with one customer."""

    def __init__(self, crm: CrmClient, console: Console, at: str, agent: str) -> None:
        self._crm = crm
        self._console = console
        self._at = at
        self._agent = agent

    def ask(self, number: str) -> list[Any]:
        """Ask what may be offered, and show it."""
        answer = self._crm.advise(
            number, self._at, request_id=uuid.uuid4().hex, agent=self._agent, timeout=_DEADLINE_SECONDS
        )
        advices = list(answer.advices)
        if self._console.is_terminal:
            self._console.clear()  # the number that was typed goes with it
        self._console.print(screen(number, advices))
        return advices

    def talk(self, advices: Iterable[Any]) -> None:
        """A key for each offer, in order."""
        self.report((advice, self._key(n)) for n, advice in enumerate(advices, 1))

    def _key(self, number: int) -> OutcomeKind:
        self._console.print(f"{number}: {_KEYS} ", end="", markup=False)
        while (key := _typed_key()) not in _OUTCOMES:
            pass
        kind = _OUTCOMES[key]
        self._console.print(_WORDS[kind])
        return kind

    def report(self, said: Iterable[tuple[Any, OutcomeKind]]) -> None:
        """Report what came of offers."""
        for advice, kind in said:
            try:
                self._crm.report_outcome(
                    advice.decision_id, kind, agent=self._agent, timeout=_DEADLINE_SECONDS
                )
            except OpportuneError as error:
                self._console.print(Text(f"The outcome was not recorded: {error}", style="red"))
                raise
            self._console.print(f"{advice.campaign}: {_WORDS[kind]}", markup=False, style="dim")


def _typed_key() -> str:
    """A key as it is pressed; without a terminal, the first letter of a line."""
    if sys.stdin.isatty():
        return typer.getchar().lower()
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line.strip()[:1].lower()


def screen(number: str, advices: Iterable[Any]) -> Panel:
    """What the clerk sees of a customer: the best offer first, with what to say and why."""
    parts: list[Any] = []
    for place, advice in enumerate(advices, 1):
        title = advice.product_label or advice.product
        campaign = advice.campaign_label or advice.campaign
        parts += [
            Text.assemble(f"{place}. ", (title, "bold green"), (f"  {campaign}", "dim")),
            Padding(Text(mask_numbers(advice.content), style="bold"), (0, 0, 0, 3)),
            *(
                Padding(Text(f"because {mask_numbers(reason)}", style="dim"), (0, 0, 0, 3))
                for reason in advice.reasons or ["the customer is here"]
            ),
        ]
    body = Group(*parts) if parts else Text("Nothing to offer: leave this customer alone.")
    return Panel(body, title=Text(mask_number(number)), title_align="left", padding=(1, 2))


def _number(console: Console) -> str:
    """The next customer's number; "" to end."""
    while True:
        console.print("number (empty to end): ", end="")
        typed = sys.stdin.readline()
        number = "".join(typed.split()).removeprefix("+")
        if not number or number.isdigit():
            return number
        console.print("A number has digits only.", style="red")
