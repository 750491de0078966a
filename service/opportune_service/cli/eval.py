"""`opportune eval`: one expression against given values."""

from __future__ import annotations

import json as json_
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from opportune_rulebase import load
from opportune_rulebase.errors import ExpressionError
from opportune_rulebase.evaluate import evaluate, plain
from opportune_rulebase.expressions import Unknown
from opportune_rulebase.given import BindingError

from opportune_service.cli.options import JsonOption
from opportune_service.cli.rulebase_files import read_files
from opportune_service.cli.terminal import ExitCode, print_json


class Via(StrEnum):
    """Which of the two meanings of an expression to ask; they must agree."""

    NETWORK = "network"
    CEL = "cel"


def eval_command(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", show_default=False, help="What to evaluate.")
    ],
    bindings: Annotated[
        str,
        typer.Option(
            "--bindings", metavar="FILE", help="JSON object of values by name; - reads standard input."
        ),
    ] = "",
    rulebase: Annotated[
        Path | None,
        typer.Option(
            "--rulebase",
            metavar="DIR",
            exists=True,
            help="Take names, types and definitions of this rulebase.",
        ),
    ] = None,
    via: Annotated[
        Via, typer.Option("--via", help="The network engine's compiled code, or CEL's own evaluator.")
    ] = Via.NETWORK,
    json: JsonOption = False,
) -> None:
    """Evaluate an expression of the rulebase language against given values; prints the value as JSON.

    Bindings: {"event": {"amount": 5}, "x": 1.5, "now": {"$timestamp": "2026-11-20T20:00:00+08:00"}}; also
    $duration, $int, $uint, $double, $bytes (base64), and {"$missing": "int"}. Null is missing.

    Ends with 0 and the value; 1 if there is none (missing data, division by zero), or the rulebase has
    errors; 2 if the expression or the bindings are wrong; 5 if there is no rulebase that can be read.

    Example: opportune eval 'event.amount * 2 > 5' --bindings values.json
    """
    try:
        loaded = load(read_files(rulebase)) if rulebase is not None else None
        value = evaluate(expression, _read(bindings) if bindings else {}, rulebase=loaded, via=via.value)
    except ExpressionError as error:
        faults = [f"{line}:{column}: {message}" for line, column, message in error.faults]
        _stop(ExitCode.USAGE, faults, json)
    except BindingError as error:
        _stop(ExitCode.USAGE, [f"bindings: {error}"], json)
    if isinstance(value, Unknown):
        _stop(ExitCode.NO, [value.reason], json)
    print_json(plain(value))


def _stop(code: ExitCode, reasons: list[str], json: bool) -> NoReturn:
    if json:
        print_json({"error": "; ".join(reasons)})
    else:
        for reason in reasons:
            typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(code)


def _read(source: str) -> dict[str, object]:
    """The object in a file, or in standard input. Raises BindingError."""
    try:
        read = typer.get_binary_stream("stdin").read() if source == "-" else Path(source).read_bytes()
        found = json_.loads(read.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except OSError as error:
        raise BindingError(f"{source} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise BindingError(f"{source} is nested too deeply") from None
    except BindingError:
        raise
    except ValueError as error:
        raise BindingError(f"{source} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BindingError(f"{source} must hold a JSON object: names with their values")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise BindingError(f"{next(name for name in names if names.count(name) > 1)!r} is bound twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise BindingError(f'{word} is not JSON: write {{"$double": "{word}"}}')
