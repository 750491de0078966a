"""`opportune dev`: everything in one process, to look at and to try rulebases on."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from opportune_client import connect_async
from opportune_rulebase import load

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.adapters.grpc.server import CannotServeError, serving
from opportune_service.bootstrap import Application, application, run_process
from opportune_service.cli.board import Board
from opportune_service.cli.decisions import Told
from opportune_service.cli.dev_view import View, make_view
from opportune_service.cli.options import RulebaseOption, rulebase_directory
from opportune_service.cli.simulate import local_text, make_province, start_instant
from opportune_service.cli.terminal import ExitCode, stop
from opportune_service.cli.world import DevClock, Follower, World
from opportune_service.settings import EngineName, Settings

_DAY_US = 86_400_000_000
_LISTEN = "127.0.0.1:50051"
_WARM_UP = 1_000
_LEASE_SECONDS = 30
_TICK_SECONDS = 0.5
_REVISIONS = "opportune_service.bootstrap"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, as it was asked for. `seconds` None: until Ctrl-C."""

    settings: Settings
    seed: int
    subscribers: int
    speed: float
    start: str
    days: float
    seconds: float | None


def dev_command(
    rulebase: RulebaseOption = None,
    subscribers: Annotated[int, typer.Option(min=1, help="How many people live in the province.")] = 500,
    speed: Annotated[float, typer.Option(min=0.1, help="Simulated seconds a second.")] = 120,
    seed: Annotated[int, typer.Option(help="Another seed, another province.")] = 1,
    start: Annotated[
        str,
        typer.Option(metavar="TIME", help="When the day begins. [default: 8:00 on the next working day]"),
    ] = "",
    days: Annotated[
        float,
        typer.Option("--before", metavar="DAYS", min=0, help="Days lived through before that, for habits."),
    ] = 1.0,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=0.1, help="End after so many seconds.")
    ] = None,
    database: Annotated[
        str, typer.Option(metavar="URL", help="The ledger. In memory, so that each run is a new one.")
    ] = "sqlite://",
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help=f"[default: {_LISTEN}, or any free port]")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="The matching engine.")] = EngineName.NETWORK,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--plain", " /--no-live", help="A live table, or lines. [default: by the terminal]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """Run the service with a made-up province around it, and show what is decided, and why.

    One process: the service on loopback, a rulebase (the sample by default), collectors that send the
    day's traffic, gateways that send messages, a counter that asks for advice, and people who answer.
    The rulebase's directory is watched: edit a campaign and see it take effect. Nobody in it is real.

    Example: opportune dev --rulebase my-rulebase --speed 60
    """
    settings = Settings(
        listen=listen or _listen_address(),
        database=database,
        rulebase=rulebase_directory(rulebase),
        watch=True,
        engine=engine,
        # The clock of leases runs as fast as the province's.
        lease_seconds=_LEASE_SECONDS * max(1.0, speed),
        reflection=True,
        drain_seconds=1,
        tls_certificate=None,
        tls_key=None,
        tls_client_ca=None,
        callers=None,
    )
    plan = Plan(settings, seed, subscribers, speed, start, days, seconds)
    view = make_view(live=live, json=json)
    try:
        run_process(_dev(plan, view))
    except CannotServeError as error:
        stop(ExitCode.NO, str(error))


async def _dev(plan: Plan, view: View) -> None:
    directory = plan.settings.rulebase
    assert directory is not None  # noqa: S101 - the command sets it
    rulebase = load(read_rulebase(directory))
    zone = rulebase.time_zone
    start_us = start_instant(plan.start, zone) if plan.start else _next_working_morning(zone)
    clock = DevClock(start_us - int(plan.days * _DAY_US))
    board = Board(labels={campaign.name: campaign.label for campaign in rulebase.campaigns.values()})
    with _news_to(board, view):
        async with application(plan.settings, clock) as app, serving(app) as server:
            target = f"{plan.settings.listen.rpartition(':')[0]}:{server.port}"
            board.target_option = "" if target == _LISTEN else f" --target {target}"
            _greet(view, target, board.target_option, directory)
            province = make_province(rulebase, plan.seed, plan.subscribers, clock.now_us())
            async with connect_async(target) as channel:
                world = World(channel, rulebase, province, plan.seed, clock, board)
                view.say(await world.bring_context())
                if plan.days:
                    view.say(f"living through {plan.days:g} day(s) before {local_text(start_us, zone)}")
                    await _live_before(app, world, clock, start_us)
                clock.start(start_us, plan.speed)

                def take(told: Told, decision: Any) -> None:
                    board.take(told)
                    view.decision(told, decision)

                def tick() -> None:
                    board.now = local_text(clock.now_us(), zone)
                    view.update(board)

                try:
                    async with Follower(target, rulebase, take):
                        await _until_stopped(world, tick, plan.seconds)
                    tick()
                finally:
                    view.end(board)


def _greet(view: View, target: str, option: str, directory: Path) -> None:
    view.say(f"The service is at {target}; its rulebase is {directory}.")
    view.say("Edit a campaign there and see it take effect, or try in another terminal:")
    for command in ("tail", "explain DECISION_ID", "advise 8613800000001 --at counter"):
        view.say(f"  opportune {command}{option}")


async def _live_before(app: Application, world: World, clock: DevClock, start_us: int) -> None:
    """The traffic of the days before, each event decided at its own time, so that people have habits.

    In process, because a collector is not believed when it sends what is older than an hour.
    """
    events = world.known_events(start_us)
    while batch := list(islice(events, _WARM_UP)):
        await app.ingest.publish("province", batch, at_event_time=True)
        clock.stand(batch[-1].occurred_at_us)


async def _until_stopped(world: World, tick: Callable[[], None], seconds: float | None) -> None:
    """Let the world live until a signal, or until the time is over."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    end = None if seconds is None else loop.time() + seconds
    living = asyncio.create_task(world.live())
    try:
        while not (stopped.is_set() or living.done() or (end is not None and loop.time() >= end)):
            tick()
            left = _TICK_SECONDS if end is None else min(_TICK_SECONDS, end - loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, left)):
                    await stopped.wait()
    finally:
        living.cancel()
        ended = (await asyncio.gather(living, return_exceptions=True))[0]
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if isinstance(ended, BaseExceptionGroup):
        raise ended.exceptions[0]  # what ended it; the others were cancelled


@contextmanager
def _news_to(board: Board, view: View) -> Iterator[None]:
    """Show what the service logs: reloads, and whatever goes wrong."""
    loop = asyncio.get_running_loop()

    class _News(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            loop.call_soon_threadsafe(board.news.append, message)
            loop.call_soon_threadsafe(view.say, message)

    handler = _News()
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == _REVISIONS)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _next_working_morning(zone: ZoneInfo) -> int:
    """Eight o'clock on the next working day: in the future, so that no gateway finds an offer too old."""
    morning = datetime.now(zone).replace(hour=8, minute=0, second=0, microsecond=0) + timedelta(days=1)
    while morning.weekday() >= 5:
        morning += timedelta(days=1)
    return int(morning.timestamp()) * 1_000_000


def _listen_address() -> str:
    """The usual address, or any free port if it is taken: a second demonstration may run beside."""
    host, _, port = _LISTEN.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return _LISTEN
