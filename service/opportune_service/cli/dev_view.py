"""The faces of `opportune dev`: a live picture, plain lines, or JSON."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from opportune_service.cli.board import Board, campaigns_table, screen
from opportune_service.cli.decisions import Told, trace_record
from opportune_service.cli.terminal import err, out, print_json

_LINES_A_TICK = 5
_STATUS_EVERY = 4


class View(Protocol):
    """How the demonstration shows itself. Called in the event loop only."""

    def say(self, message: str) -> None:
        """Something worth a line."""

    def decision(self, told: Told, decision: Any) -> None:
        """A decision or lost candidate was recorded."""

    def update(self, board: Board) -> None:
        """Time went on."""

    def end(self, board: Board) -> None:
        """It is over: the summary."""


def make_view(*, live: bool | None, json: bool) -> View:
    """The view that was asked for; by default a live picture at a terminal, else lines."""
    if json:
        return JsonView()
    console = out()
    return LiveView(console) if (console.is_terminal if live is None else live) else PlainView(console)


class JsonView:
    """One object a line on standard output; messages on standard error."""

    def say(self, message: str) -> None:
        err().print(message, markup=False)

    def decision(self, told: Told, decision: Any) -> None:
        print_json({"type": "decision"} | trace_record(decision))

    def update(self, board: Board) -> None:
        """Programs need no clock."""

    def end(self, board: Board) -> None:
        print_json(board.record())


class PlainView:
    """A line for each decision, a few a tick, and a status line. Never moves the cursor."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._decided: list[Told] = []
        self._lost: list[Told] = []
        self._updates = 0

    def say(self, message: str) -> None:
        self._console.print(message, markup=False)

    def decision(self, told: Told, decision: Any) -> None:
        (self._decided if told.decided else self._lost).append(told)

    def update(self, board: Board) -> None:
        shown = self._decided[:_LINES_A_TICK] + self._lost[:1]
        for told in shown:
            self._console.print(told.text())
        hidden = len(self._decided) + len(self._lost) - len(shown)
        if hidden > 0:
            self._console.print(Text(f"  ... and {hidden} more", style="dim"))
        self._decided, self._lost = [], []
        self._updates += 1
        if self._updates % _STATUS_EVERY == 1:
            self._console.print(Text(board.status(), style="bold"))

    def end(self, board: Board) -> None:
        show_summary(self._console, board)


class LiveView:
    """A picture that is drawn anew; it is gone at the end, and the summary stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def say(self, message: str) -> None:
        if self._live is None:  # later the board shows it
            self._console.print(message, markup=False)

    def decision(self, told: Told, decision: Any) -> None:
        """The board has it."""

    def update(self, board: Board) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, screen=False, transient=True)
            self._live.start()
        self._live.update(screen(board, self._console.height), refresh=True)

    def end(self, board: Board) -> None:
        if self._live is not None:
            self._live.stop()
        show_summary(self._console, board)


def show_summary(console: Console, board: Board) -> None:
    """What came of it all."""
    console.print()
    console.print(Text(board.status(), style="bold"))
    if board.outcomes:
        answers = ", ".join(f"{name} {count}" for name, count in board.outcomes.most_common())
        console.print(Text(f"answers of customers: {answers}"))
    console.print(campaigns_table(board))
    console.print()
    console.print(Text("next: opportune check DIR; opportune test DIR; opportune serve --rulebase DIR"))
