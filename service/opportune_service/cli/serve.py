"""`opportune serve`: the service."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from opportune_service.adapters.grpc.server import CannotServeError, serve
from opportune_service.bootstrap import application, run_process
from opportune_service.cli.logs import LogFormat, log_to_stderr
from opportune_service.cli.terminal import ExitCode, stop
from opportune_service.clocks import WallClock
from opportune_service.settings import EngineName, Settings


def serve_command(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes any free one.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="The ledger. [default: sqlite:///var/opportune.db]")
    ] = None,
    rulebase: Annotated[
        Path | None,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="Activate this rulebase at start."),
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="The matching engine.")] = None,
    watch: Annotated[
        bool | None, typer.Option("--watch", help="Activate --rulebase again whenever its files change.")
    ] = None,
    reflection: Annotated[
        bool | None, typer.Option("--reflection", help="Let generic gRPC clients list the methods.")
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="Log lines on standard error; auto: plain at a terminal, else JSON.")
    ] = LogFormat.AUTO,
) -> None:
    """Run the service until SIGTERM or Ctrl-C, which let calls under way finish.

    Settings come from the environment (OPPORTUNE_LISTEN, OPPORTUNE_DATABASE ...); options win. Says
    "listening on HOST:PORT" on standard output when it is ready. Ends with 1 if it cannot start, 2 for a
    wrong setting, 3 if the ledger cannot be opened.

    Example: opportune serve --rulebase rulebase/packs/gprs-precision
    """
    given: dict[str, Any] = {
        "listen": listen,
        "database": database,
        "rulebase": rulebase,
        "engine": engine,
        "watch": watch,
        "reflection": reflection,
    }
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    log_to_stderr(log_format)
    if settings.database == Settings.model_fields["database"].default:
        Path("var").mkdir(exist_ok=True)
    try:
        run_process(_serve(settings))
    except CannotServeError as error:
        stop(ExitCode.NO, str(error))


async def _serve(settings: Settings) -> None:
    host, _, port_text = settings.listen.rpartition(":")
    async with application(settings, WallClock()) as app:
        if not app.live.id:
            logging.getLogger(__name__).warning(
                "no rulebase is active; activate one with: opportune reload DIR"
            )

        def ready(port: int) -> None:
            chosen = f"{host}:{port}" if port_text == "0" else settings.listen
            typer.echo(f"listening on {chosen}")

        await serve(app, ready)
