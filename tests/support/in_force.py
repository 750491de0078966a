"""Revisions that run beside the one in full force, in a whole service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opportune_service.app.records import ActivationMode, DecisionFilter
from opportune_service.bootstrap import Application
from opportune_service.core.events import Event
from opportune_service.core.verdict import Verdict
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

PEOPLE = subscribers(40)
THIRD = 300_000
ANY = DecisionFilter()
FULL, CANARY, SHADOW = ActivationMode


async def upload(app: Application, files: Mapping[str, bytes]) -> str:
    rulebase, _ = await app.rulebases.upload(files, "test", "")
    return rulebase.revision


async def let(app: Application, files: Mapping[str, bytes], mode: ActivationMode, share: int = 0) -> str:
    """Upload and activate beside what is in full force, or in its place; the revision."""
    revision = await upload(app, files)
    await app.activations.activate(revision, app.live.id, "test", "", mode=mode, share=share)
    return revision


async def publish(app: Application, events: Sequence[Event]) -> list[Verdict]:
    return (await app.ingest.publish("source", events)).verdicts


def senders(people: Sequence[str], count: int, at_us: int = NOON_US, name: str = "e") -> list[Event]:
    """Each sends so many."""
    return [mms(who, f"{name}{n}", at_us + n) for who in people for n in range(count)]


def by_revision(verdicts: Sequence[Verdict]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.revision, set()).add(verdict.key.subscriber_id)
    return found


def small(threshold: int, **rest: int) -> dict[str, bytes]:
    return small_rulebase(threshold=threshold, weekly_limit=9, **rest)
