"""`opportune serve`: the service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from opportune_service.adapters.grpc.server import CannotServeError, Server, serve
from opportune_service.adapters.metrics.server import CannotListenError, monitoring
from opportune_service.app.calls import Call, Calls
from opportune_service.app.errors import InvalidRequestError
from opportune_service.bootstrap import Application, application, run_process
from opportune_service.cli.logs import LogFormat, log_to_stderr
from opportune_service.cli.settings import ConfigOption
from opportune_service.cli.terminal import ExitCode, stop
from opportune_service.cli.workers import end_with_supervisor, supervise
from opportune_service.clocks import WallClock
from opportune_service.settings import EngineName, Settings

log = logging.getLogger(__name__)


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
    metrics_listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Metrics and probes. [default: nowhere]"),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="So many equal processes on the port, with PostgreSQL and Redis."
        ),
    ] = 1,
    config: ConfigOption = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="Log lines on standard error; auto: plain at a terminal, else JSON.")
    ] = LogFormat.AUTO,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C, which let calls under way finish.

    Settings come from opportune.toml and from the environment (OPPORTUNE_LISTEN, OPPORTUNE_DATABASE ...),
    which wins; options win over both. See opportune settings. Says "listening on HOST:PORT" on standard
    output when it is ready. Ends with 1 if it cannot start, 2 for a
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
        "metrics_listen": metrics_listen,
        "config": config,
    }
    given = {name: value for name, value in given.items() if value is not None}
    settings = Settings(**given)
    log_to_stderr(log_format, worker=worker)
    if settings.database == Settings.model_fields["database"].default:
        try:
            Path("var").mkdir(exist_ok=True)
        except OSError as error:
            stop(
                ExitCode.NO,
                f"cannot make the directory var for the ledger here: {error.strerror}; "
                "start where it may be made, or set database",
            )
    if worker is not None:
        end_with_supervisor(settings)
    try:
        if workers > 1:
            raise typer.Exit(supervise(settings, given, ["--log-format", log_format.value], workers))
        run_process(_serve(settings, shared_port=worker is not None))
    except (CannotServeError, CannotListenError) as error:
        stop(ExitCode.NO, str(error))


async def _serve(settings: Settings, *, shared_port: bool) -> None:
    host, _, port_text = settings.listen.rpartition(":")
    # Before everything else: while a long log is replayed the process lives, and is not ready.
    async with monitoring(settings.metrics_listen) as monitor:
        with _spans(settings.trace_endpoint) as send:
            async with application(settings, WallClock()) as app:
                if not app.live.id:
                    log.warning("no rulebase is active; activate one with: opportune reload DIR")

                def ready(server: Server) -> None:
                    monitor.watch(app, server.calls, lambda: not_ready(app, server))
                    chosen = f"{host}:{server.port}" if port_text == "0" else settings.listen
                    typer.echo(f"listening on {chosen}")

                try:
                    await serve(app, ready, Calls(send), shared_port=shared_port)
                finally:
                    monitor.forget()


def not_ready(app: Application, server: Server) -> str:
    """Why callers should go elsewhere; "" if they need not."""
    if server.leaving:
        return "the service is shutting down"
    return "" if app.ingest.healthy.is_set() else "the store is unavailable"


def _spans(endpoint: str) -> AbstractContextManager[Callable[[Call], None] | None]:
    """What sends spans to the endpoint; nothing without one."""
    if not endpoint:
        return nullcontext()
    try:
        # Imported here: it is an extra of its own, which few need.
        from opportune_service.adapters.otel.spans import sending  # noqa: PLC0415
    except ImportError as error:
        raise InvalidRequestError(
            "trace_endpoint",
            "OpenTelemetry is not installed; install it with: pip install 'opportune[otel]'",
        ) from error
    return sending(endpoint)
