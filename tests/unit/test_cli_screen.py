"""What `opportune dev` and `tail` put on a screen: masked, counted, and no taller than the terminal."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from opportune_service.cli.board import Board, screen
from opportune_service.cli.decisions import Told
from opportune_service.cli.dev_view import PlainView
from opportune_service.cli.terminal import mask_number, mask_numbers
from rich.console import Console
from support.commands import opportune


def told(number: int, reason: str = "decided") -> Told:
    return Told(
        decision_id=f"d{number}",
        time="08:00:00",
        who=mask_number(f"86138{number:08d}"),
        campaign=f"c{number % 40}",
        label="",
        reason=reason,
        channel="sms",
        content="套餐",
        why="常发短信",
    )


@pytest.mark.parametrize("height", [24, 30, 50, 200])
def test_the_picture_fits_the_terminal(height: int) -> None:
    board = Board()
    for number in range(300):
        board.take(told(number, "capped" if number % 3 else "decided"))
        board.news.append(f"news {number}")
    console = Console(file=io.StringIO(), width=80, height=height)
    with console.capture() as captured:
        console.print(screen(board, height))
    assert len(captured.get().splitlines()) < height


def test_the_board_counts_and_remembers_the_newest() -> None:
    board = Board()
    for number in range(40):
        board.take(told(number))
        board.take(told(number, "capped"))
    assert board.decided.total() == 40
    assert board.reasons() == {"capped": 40}
    assert board.last[-1].decision_id == "d39"
    assert board.record()["lost"] == {f"c{number}": {"capped": 1} for number in range(40)}


def test_plain_lines_hold_back_a_flood_but_say_so() -> None:
    text = io.StringIO()
    view = PlainView(Console(file=text, width=200))
    for number in range(50):
        view.decision(told(number), None)
    view.update(Board())
    shown = text.getvalue().count("常发短信")
    assert 0 < shown < 50
    assert f"and {50 - shown} more" in text.getvalue()


@pytest.mark.parametrize("number", ["8613800000001", "10086", "123456789"])
def test_no_number_is_shown_in_full(number: str) -> None:
    assert number not in mask_number(number)
    assert mask_number(number).endswith(number[-2:])


def test_numbers_in_texts_are_masked_and_prices_are_not() -> None:
    assert mask_numbers("call 8613800000001, only 10000 points") == "call 86138****0001, only 10000 points"


@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_logged_exception_quotes_no_number(form: str) -> None:
    code = f"""
import logging
from opportune_service.cli.logs import LogFormat, log_to_stderr
log_to_stderr(LogFormat.{form.upper()})
def look_up():
    try:
        {{}}["86138" + "00000001"]
    except KeyError as error:
        raise ValueError(f"nothing is known of {{error}}") from error
try:
    look_up()
except ValueError:
    logging.getLogger("x").exception("it failed")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "it failed" in said
    assert "nothing is known of" in said
    assert "8613800000001" not in said


def test_a_wrong_command_line_quotes_no_number(tmp_path: Path) -> None:
    for arguments in (
        ("contacts", "8613800000001", "8613800000001"),
        ("consent", "8613800000001", "all", "8613800000001"),
        ("consent", "8613800000001", "all", "allow", "--as-of", "8613800000001"),
        ("8613800000001",),
    ):
        ended = opportune(*arguments, cwd=tmp_path)
        assert ended.returncode == 2
        assert "86138****0001" in ended.stderr
        assert "8613800000001" not in ended.stderr + ended.stdout
