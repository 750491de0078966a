"""The composition root: the only place where adapters and use cases are put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.network import NetworkEngine

from opportune_service.adapters.files.archive import FileArchive
from opportune_service.adapters.files.callers import read_callers, watch_callers
from opportune_service.adapters.files.rulebase_dir import read_rulebase, watch_rulebase
from opportune_service.adapters.files.signers import SignersError, read_signers, signer_of
from opportune_service.adapters.files.yaml_files import YamlFileError
from opportune_service.adapters.memory.live_state import MemoryLiveState
from opportune_service.adapters.processes.rehearsal import rehearse_in_process
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.shadow import open_shadow
from opportune_service.app.access import Access, Register
from opportune_service.app.activation import Activations
from opportune_service.app.backfill import Backfill
from opportune_service.app.backups import Backups
from opportune_service.app.bulk import BulkPrompts
from opportune_service.app.dead_letters import DeadLetters
from opportune_service.app.defer import AHEAD_AMONG_MEMBERS_US, AHEAD_US, decide_due
from opportune_service.app.deliver import Deliveries
from opportune_service.app.engines import KeptEngines
from opportune_service.app.erase import Erasures
from opportune_service.app.errors import (
    InvalidRequestError,
    OpportuneError,
    RulebaseRefusedError,
    StoreUnavailableError,
    UnloadableRevisionError,
)
from opportune_service.app.housekeeping import EVERY_SECONDS, Housekeeping
from opportune_service.app.ingest import Ingest
from opportune_service.app.insight import Insight
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.membership import BEAT_SECONDS, Membership
from opportune_service.app.pauses import Pauses
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.promotions import Promotions
from opportune_service.app.recover import note_listening, recover_all
from opportune_service.app.rehearsals import Rehearsals
from opportune_service.app.retention import Keep
from opportune_service.app.revisions import LiveRevision, stored_in_force
from opportune_service.app.rulebases import Rulebases
from opportune_service.app.schedule import Schedule
from opportune_service.app.shadow import Shadow
from opportune_service.app.signing import SignerOf
from opportune_service.app.takeover import enter
from opportune_service.app.watching import Watching
from opportune_service.core.observe import forget
from opportune_service.core.revision import EngineFactory
from opportune_service.settings import EngineName, Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDS_AT_ONCE = 20_000
_HEED_SECONDS = 0.4
SHADOW_SECONDS = 1.0
"""How often to look what a shadow has deferred: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Application:
    """The use cases of one running service, as the adapters at the edge need them."""

    settings: Settings
    clock: Clock
    live: LiveRevision
    states: LiveState
    ledger: Ledger
    thread: LedgerThread
    ingest: Ingest
    rulebases: Rulebases
    activations: Activations
    promotions: Promotions
    watching: Watching
    deliveries: Deliveries
    dead_letters: DeadLetters
    insight: Insight
    backfill: Backfill
    rehearsals: Rehearsals
    schedule: Schedule
    pauses: Pauses
    erasures: Erasures
    housekeeping: Housekeeping
    backups: Backups | None
    membership: Membership | None
    shadow: Shadow
    access: Access | None = None
    """Who may call; None: nobody is asked."""

    def leads(self) -> bool:
        """Whether this process does what is to be done once, by whichever of those that share a ledger."""
        return self.membership is None or self.membership.leads


def engine_factory(name: EngineName) -> EngineFactory:
    """What makes an engine of this name. Raises `InvalidRequestError` when it is not installed."""
    if name is EngineName.NETWORK:
        return NetworkEngine
    try:
        # Imported here: it is an extra of its own, because installing it needs a C compiler.
        from opportune_rulebase.durable import DurableEngine  # noqa: PLC0415
    except ImportError as error:
        raise InvalidRequestError(
            "engine",
            "the durable engine is not installed; install it with: pip install 'opportune[durable]'",
        ) from error
    return DurableEngine


def run_process(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in the way a process of the service runs: on uvloop, with a collector tuned for it.

    Live state is millions of objects that stay: walking them as often as Python does by default costs a
    third of the processor. What is young is walked in small portions: 200,000 objects kept callers waiting
    for 0.1 s.
    """
    gc.set_threshold(10_000, 1_000, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@asynccontextmanager
async def application(settings: Settings, clock: Clock) -> AsyncIterator[Application]:
    """Open the ledger, rebuild live state, begin to work; at the end finish what was accepted.

    Raises `StoreUnavailableError` when a store cannot be opened, `UnloadableRevisionError` when this
    release does not take what is in force, `RulebaseRefusedError` when `settings.rulebase` has errors,
    `InvalidRequestError` for settings that do not go together.
    """
    make_engine = engine_factory(settings.engine)
    engines = KeptEngines(make_engine)  # of what is or may soon be in force
    live = LiveRevision()
    access, changes = None, None
    if settings.callers is not None:
        changes = watch_callers(settings.callers)  # before it is read: whatever comes later is seen
        access = Access(_read_callers(settings.callers, clock))
    open_stores = _shared if settings.live_state else _embedded
    async with open_stores(settings, clock, live) as stores:
        (thread, ledger), states, membership = stores.pipeline, stores.states, stores.membership
        if membership is None:
            with _stored_rulebases_load():
                recovered = await recover_all(ledger, make_engine, states)
        # Before the first beat: it says that somebody listens.
        outage_us = await thread.run(note_listening, ledger, clock.now_us())
        if membership is not None:
            with _stored_rulebases_load():
                recovered = await enter(membership, ledger, thread, states, make_engine)
        if outage_us:
            log.warning(
                "nobody listened for %d minutes: events may be lost, so coverage of everything begins anew",
                outage_us // 60_000_000,
            )
        with _stored_rulebases_load():
            in_force = stored_in_force(ledger, engines)
        if in_force is not None:
            live.swap(in_force)
        shadow = Shadow(live, states, clock, partial(_open_shadow, settings.database))
        ingest = Ingest(
            *(live, states, ledger, thread, clock, engines, recovered),
            on_verdicts=lambda verdicts: deliveries.announce(verdicts),  # noqa: PLW0108 - made below
            membership=membership,
            on_shadowed=shadow.take,
        )
        aside_thread, aside = stores.aside
        backfill = Backfill(live, states, aside, aside_thread, clock, make_engine, ingest)
        activations = Activations(
            *(live, ingest, ledger, thread, clock, engines, backfill.start, shadow),
            kept=lambda revision: rulebases.kept(revision) or engines.rulebase(revision),
        )
        erasures = Erasures(states, ledger, thread, clock, ingest, backfill.start, shadow)
        thread, ledger = aside_thread, aside  # for all that does not go with the pipeline
        signer = _signer_of(settings)
        rulebases = Rulebases(live, ledger, thread, clock, engines, signer)
        prompts = BulkPrompts(live, states, ledger, thread, clock, ingest)
        lease_for_us = int(settings.lease_seconds * 1_000_000)
        share = membership.share if membership else int
        deliveries = Deliveries(
            *(live, states, ledger, thread, clock, lease_for_us, prompts, share, ingest.check_sound)
        )

        def leads() -> bool:
            return app.leads()

        keep = Keep(settings.keep_log_days, settings.keep_history_days, settings.keep_audit_days)
        archive = FileArchive(settings.archive) if settings.archive else None
        app = Application(
            settings=settings,
            clock=clock,
            live=live,
            states=states,
            ledger=ledger,
            thread=thread,
            ingest=ingest,
            rulebases=rulebases,
            activations=activations,
            promotions=Promotions(
                *(rulebases, activations, ledger, thread, clock, make_engine, signer),
                gated=access is not None,
            ),
            watching=Watching(ledger, thread, lambda: activations.last_attempt),
            deliveries=deliveries,
            dead_letters=DeadLetters(live, states, ledger, thread, clock, deliveries),
            insight=Insight(ledger, thread),
            backfill=backfill,
            rehearsals=Rehearsals(
                *(live, rulebases, ledger, thread, clock, settings.engine.value, rehearse_in_process),
                deliveries.tests,
            ),
            schedule=Schedule(live, states, ledger, thread, clock, ingest.settle_due),
            pauses=Pauses(live, ledger, thread, clock),
            erasures=erasures,
            housekeeping=Housekeeping(live, ledger, thread, clock, keep, archive, leads),
            backups=_backups(settings, clock, ledger),
            membership=membership,
            shadow=shadow,
            access=access,
        )
        for its_thread, each in (stores.pipeline, stores.aside):
            await its_thread.run(each.keep_to_this_thread)  # at start there was nobody else to use them
        async with _running(app, changes):
            if settings.rulebase is not None:
                await activate_directory(app, settings.rulebase)
            yield app


def _open_shadow(database: str, make: bool) -> SqlLedger | None:
    """In the shadow's thread."""
    ledger = open_shadow(database, make=make)
    if ledger is not None:
        ledger.keep_to_this_thread()
    return ledger


@contextmanager
def _stored_rulebases_load() -> Iterator[None]:
    """Without what was in force nobody knows what states mean, so there is no start without it."""
    try:
        yield
    except RulebaseError as error:
        raise UnloadableRevisionError(
            "a rulebase that is in force, or was when events were taken in that have to be recovered, is"
            f" not one that this release takes: {error}. Nothing was changed. Start the release before this"
            " one, let it bring a rulebase into force that 'opportune check' of this release takes, end it,"
            " and start this one again",
            error.problems,
        ) from error


def _backups(settings: Settings, clock: Clock, ledger: Ledger) -> Backups | None:
    if settings.backup is None:
        return None
    if settings.live_state or not isinstance(ledger, SqlLedger):
        raise InvalidRequestError(
            "backup", "a ledger on PostgreSQL is backed up by its own tools: leave backup out"
        )
    return Backups(ledger, clock, settings.backup, settings.backup_hours * 3600)


@dataclass(frozen=True, slots=True)
class _Stores:
    """`pipeline` and `aside`: the ledger and the one thread that uses it, for the pipeline and for all
    else; on SQLite they are the same. `membership`: None if there is only this process."""

    pipeline: tuple[LedgerThread, Ledger]
    aside: tuple[LedgerThread, Ledger]
    states: LiveState
    membership: Membership | None = None


@asynccontextmanager
async def _embedded(settings: Settings, _: Clock, live: LiveRevision) -> AsyncIterator[_Stores]:
    if settings.database.startswith("postgresql"):
        raise InvalidRequestError(
            "live_state",
            "a ledger on PostgreSQL is for processes that share live state too: set live_state to a Redis",
        )
    states = MemoryLiveState(
        settings.ready_subscribers, tidy=lambda state: forget(state, live.current) if live.id else None
    )
    async with _opened(settings.database) as opened:
        yield _Stores(opened, opened, states)


@asynccontextmanager
async def _shared(settings: Settings, clock: Clock, _: LiveRevision) -> AsyncIterator[_Stores]:
    if not settings.database.startswith("postgresql"):
        raise InvalidRequestError(
            "live_state",
            "live_state is for several processes: they share a ledger on PostgreSQL (database)",
        )
    database = settings.database
    async with (
        _opened(database) as pipeline,
        _opened(database) as aside,
        _opened(database) as (own_thread, own),
        _redis(settings, own_thread, own) as states,
    ):
        await own_thread.run(own.keep_to_this_thread)
        yield _Stores(pipeline, aside, states, Membership(own, own_thread, states, clock))


@asynccontextmanager
async def _opened(database: str) -> AsyncIterator[tuple[LedgerThread, Ledger]]:
    """The ledger and the one thread that uses it."""
    thread = LedgerThread()
    try:
        ledger = await thread.run(SqlLedger.open, database)
        try:
            yield thread, ledger
        finally:
            await thread.run(ledger.close)
    finally:
        thread.close()


@asynccontextmanager
async def _redis(settings: Settings, thread: LedgerThread, ledger: Ledger) -> AsyncIterator[LiveState]:
    """Live state that is shared, with the snapshots of the ledger for whoever is not in it."""
    try:
        # Imported here: it is an extra of its own, which one process alone does not need.
        from opportune_service.adapters.redis.live_state import RedisLiveState  # noqa: PLC0415
    except ImportError as error:
        raise InvalidRequestError(
            "live_state", "Redis needs an extra; install it with: pip install 'opportune[redis,postgres]'"
        ) from error

    async def snapshots(subscriber_ids: Collection[str]) -> dict[str, bytes]:
        rows = await thread.run(lambda: list(ledger.load_states(subscriber_ids)))
        return {subscriber_id: body for subscriber_id, _, body in rows}

    async def everybody() -> list[str]:
        ids: list[str] = []
        # Page by page: in between this member says that it lives.
        while page := await thread.run(ledger.snapshot_ids, ids[-1] if ids else "", _IDS_AT_ONCE):
            ids += page
        return ids

    url = settings.live_state.replace("+cluster://", "://", 1)
    states = RedisLiveState(
        url,
        snapshots,
        everybody,
        cluster=url != settings.live_state,
        max_decoded=settings.ready_subscribers,
    )
    try:
        yield states
    finally:
        await states.close()


@asynccontextmanager
async def _running(app: Application, changed_callers: AsyncIterator[None] | None) -> AsyncIterator[None]:
    pipeline = asyncio.create_task(app.ingest.run())
    pipeline.add_done_callback(_end_process_on_failure)
    helpers = [
        asyncio.create_task(_checkpoint_now_and_then(app), name="snapshots"),
        asyncio.create_task(_settle_timers_when_due(app), name="timers"),
        asyncio.create_task(_decide_deferred_when_due(app), name="what was deferred"),
        asyncio.create_task(app.schedule.run(app.settings.timer_seconds, app.leads), name="schedules"),
        asyncio.create_task(app.deliveries.run(app.leads), name="expiry of deliveries"),
        asyncio.create_task(app.housekeeping.run(), name="housekeeping"),
        asyncio.create_task(_look_after_shadow(app), name="the shadow"),
    ]
    if app.backups is not None:
        helpers.append(asyncio.create_task(app.backups.run(), name="backups"))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, app.backups.ask)
    if app.settings.watch and app.settings.rulebase is not None:
        helpers.append(asyncio.create_task(_follow_directory(app, app.settings.rulebase), name="reload"))
    if changed_callers is not None:
        helpers.append(asyncio.create_task(_follow_callers(app, changed_callers), name="callers"))
    beating = None
    if app.membership is not None:
        beating = asyncio.create_task(_among_members(app, app.membership), name="membership")
    for helper in [*helpers, *([beating] if beating else [])]:
        helper.add_done_callback(_say_failure)
    app.backfill.start()  # what a crash cut off
    try:
        yield
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await app.backfill.close()
        await app.ingest.close()
        await pipeline
        await app.shadow.close()
        if app.membership is not None and beating is not None:
            beating.cancel()  # not before: the others would take this member for dead
            await asyncio.gather(beating, return_exceptions=True)
            await _leave(app.ingest, app.membership)


async def _leave(ingest: Ingest, membership: Membership) -> None:
    """Nothing is lost where it does not succeed: the others take over what is left."""
    if not ingest.drained:
        log.warning("not everything is in the snapshots: other processes will take over what is left")
        return
    try:
        await membership.leave()
    except StoreUnavailableError as error:
        log.warning("could not take leave, so others will take over: %s", error)


def _end_process_on_failure(pipeline: asyncio.Task[None]) -> None:
    """A service whose pipeline has died must not linger: whoever runs it starts it again."""
    if not pipeline.cancelled() and pipeline.exception() is not None:
        log.critical("the pipeline failed; the process ends", exc_info=pipeline.exception())
        signal.raise_signal(signal.SIGTERM)


def _say_failure(helper: asyncio.Task[None]) -> None:
    """What a helper does is not done any more, be it timers or what was deferred: nobody would notice."""
    if not helper.cancelled() and (error := helper.exception()) is not None:
        log.critical("a part of the service has ended, restart it: %s", helper.get_name(), exc_info=error)


async def activate_directory(app: Application, directory: Path) -> None:
    """Upload and activate the rulebase in `directory`, unless it is the active revision already."""
    try:
        files = await asyncio.to_thread(read_rulebase, directory)
    except RulebaseError as error:
        raise RulebaseRefusedError(error.problems) from error
    rulebase, _ = await app.rulebases.upload(files, "local", f"from {directory.name}")
    if rulebase.revision != app.live.id:
        await app.activations.activate(rulebase.revision, None, "local", f"from {directory.name}")
        log.info("revision %s is active", rulebase.revision[:12])


async def _among_members(app: Application, membership: Membership) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_beat(app, membership))
        tasks.create_task(_heed(app.states))


async def _heed(states: LiveState) -> None:
    while True:
        try:
            await states.heed(_HEED_SECONDS)
        except StoreUnavailableError:  # the next beat finds it out, too
            await asyncio.sleep(_HEED_SECONDS)


async def _beat(app: Application, membership: Membership) -> None:
    """Say that this member lives; and when it begins to lead or has taken over, go on with a backfill that
    another may have left."""
    led, taken_over = False, 0
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        await app.ingest.beat()  # raises nothing that a later one would not mend
        if membership.leads and (not led or app.ingest.taken_over > taken_over):
            app.backfill.resume()
        led, taken_over = membership.leads, app.ingest.taken_over


async def _checkpoint_now_and_then(app: Application) -> None:
    while True:
        await asyncio.sleep(app.settings.checkpoint_seconds)
        app.ingest.request_checkpoint()


async def _settle_timers_when_due(app: Application) -> None:
    """Whatever the clock: it may run fast, or jump, so it is asked again and again."""
    while True:
        await asyncio.sleep(app.settings.timer_seconds)
        try:
            while app.live.id and app.ingest.next_timer_us <= app.clock.now_us():
                await app.ingest.settle_timers()
        except StoreUnavailableError:
            await app.ingest.healthy.wait()  # what was due is due again after recovery


async def _decide_deferred_when_due(app: Application) -> None:
    # What other members defer is not known before it is read.
    ahead_us = AHEAD_US if app.membership is None else AHEAD_AMONG_MEMBERS_US
    while True:
        await asyncio.sleep(app.settings.timer_seconds)
        try:
            if app.live.id and app.leads():
                await decide_due(app.ingest, app.clock.now_us(), ahead_us)
        except StoreUnavailableError:
            await app.ingest.healthy.wait()  # what was not decided is still due


async def _look_after_shadow(app: Application) -> None:
    """What it deferred, and what is old. Whatever fails of it, the rest of the service goes on."""
    settings = app.settings
    keep = Keep(settings.keep_log_days, settings.keep_history_days, settings.keep_audit_days)
    pruned_s = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(max(settings.timer_seconds, SHADOW_SECONDS))
        if not app.live.id or not app.leads():
            continue
        await app.shadow.settle_due()
        if asyncio.get_running_loop().time() > pruned_s + EVERY_SECONDS:
            pruned_s = asyncio.get_running_loop().time()
            try:
                await app.shadow.prune(keep, app.clock.now_us())
            except OpportuneError as error:
                log.warning("what a shadow decided long ago was not pruned: %s", error)


async def _follow_directory(app: Application, directory: Path) -> None:
    """Hot reload for development. A rulebase with errors changes nothing; the log says what is wrong."""
    async for _ in watch_rulebase(directory):
        try:
            await activate_directory(app, directory)
        except RulebaseRefusedError as error:
            for problem in error.problems:
                log.warning("%s: %s: %s %s", problem.position, problem.code, problem.message, problem.hint)
            log.warning("the rulebase has errors; revision %s stays active", app.live.id[:12])
        except OpportuneError as error:
            log.warning("the rulebase was not activated: %s", error)


def _signer_of(settings: Settings) -> SignerOf | None:
    """Who signed an archive; None if everybody may upload what nobody signed. A fault of the keys is said
    now, though they are read at each use."""
    if settings.signers is None:
        return None
    if settings.rulebase is not None:
        raise InvalidRequestError(
            "rulebase", "nobody has signed a directory: with signers, upload a signed archive instead"
        )
    try:
        read_signers(settings.signers)
    except SignersError as error:
        raise InvalidRequestError("signers", f"the signers cannot be read: {error}") from error
    return partial(signer_of, settings.signers)


def _read_callers(path: Path, clock: Clock) -> Register:
    """Raises `YamlFileError`."""
    read = read_callers(path, clock.now_us())
    for each in read.expired:
        log.warning("%s", each)
    log.info("%d callers may call", len(read.register.callers))
    return read.register


async def _follow_callers(app: Application, changes: AsyncIterator[None]) -> None:
    """A list with faults changes nothing: those of before may go on calling, and nobody else."""
    assert app.access is not None and app.settings.callers is not None  # noqa: S101, PT018 - they change
    async for _ in changes:
        try:
            app.access.replace(_read_callers(app.settings.callers, app.clock))
        except YamlFileError as error:
            app.access.refused = str(error)
            log.error("the callers stay as they were, for their file has faults:\n%s", error)  # noqa: TRY400 - it is no fault of ours
