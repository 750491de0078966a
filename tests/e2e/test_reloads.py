"""A hundred activations while events stream, with attempts between them that fail: no call of a collector
fails, each decision is of one revision, in the order in which they came into force, and nothing that was
refused changes anything. `make torture ARGS="--kind reloads"` makes a thousand."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from opportune.v1 import event_service_pb2 as events_pb
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1.event_service_pb2_grpc import EventServiceStub
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub
from opportune_rulebase import to_archive
from support.collecting import channel_to, message
from support.installations import installation
from support.small_rulebase import mms
from support.storm import PEOPLE, Storm, storm, storm_rulebase

RELOADS = 100
BAD = storm_rulebase("bad") | {"campaigns/data.yaml": b"campaign: data\nwhen: behaviour.unheard_of\n"}


def reload(made: Storm, in_force: list[str]) -> None:
    """Put a revision in force that never was before; every tenth time after three that cannot be."""
    with channel_to(made.members[0].target) as channel:
        stub = RulebaseServiceStub(channel)
        if len(in_force) % 10 == 0:
            refused(stub, in_force[-1])
        archive = pb.RulebaseArchive(data=to_archive(storm_rulebase(f"number {len(in_force)}")))
        revision = stub.UploadRulebase(pb.UploadRulebaseRequest(archive=archive)).rulebase.revision
        answer = stub.ActivateRulebase(
            pb.ActivateRulebaseRequest(revision=revision, expected_current_revision=in_force[-1])
        )
        assert answer.previous_revision == in_force[-1]
        in_force.append(revision)
        made.revisions.add(revision)


def refused(stub: RulebaseServiceStub, current: str) -> None:
    """One with faults, one that nobody uploaded, and one in the place of another than is in force."""
    bad = pb.UploadRulebaseRequest(archive=pb.RulebaseArchive(data=to_archive(BAD)))
    unknown = pb.ActivateRulebaseRequest(revision="0" * 64, expected_current_revision=current)
    stale = pb.ActivateRulebaseRequest(revision=current, expected_current_revision="0" * 64)
    for call, request, code, says in (
        (stub.UploadRulebase, bad, grpc.StatusCode.INVALID_ARGUMENT, "nothing was changed"),
        (stub.ActivateRulebase, unknown, grpc.StatusCode.NOT_FOUND, "was uploaded"),
        (stub.ActivateRulebase, stale, grpc.StatusCode.ABORTED, "active"),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call(request)
        assert raised.value.code() is code, raised.value.details()
        assert says in str(raised.value.details())
    assert stub.GetRulebase(pb.GetRulebaseRequest()).rulebase.revision == current


def out_of_order(decided: Sequence[str], in_force: Sequence[str]) -> list[str]:
    """Revisions of decisions, in the order of their commits, that were not in force where they stand."""
    place, wrong = 0, []
    for revision in decided:
        if revision not in in_force or in_force.index(revision) < place:
            wrong.append(revision)
        else:
            place = in_force.index(revision)
    return wrong


def publish(target: str, source: str, over: threading.Event) -> list[str]:
    """One event after the other, each an occasion, until it is over; of which revision each answer is."""
    revisions = []
    with channel_to(target) as channel:
        stub = EventServiceStub(channel)
        while not over.is_set():
            who = PEOPLE[len(revisions) % len(PEOPLE)]
            event = message(mms(who, f"{source}-{len(revisions)}", time.time_ns() // 1_000))
            answer = stub.PublishEvents(events_pb.PublishEventsRequest(source=source, events=[event]))
            assert answer.accepted_count == 1
            revisions.append(answer.revision)
    return revisions


def test_a_hundred_reloads_under_a_stream(tmp_path: Path) -> None:
    over = threading.Event()
    with installation("embedded", tmp_path) as place:
        with storm(place, 20261122, log=tmp_path / "log") as made, ThreadPoolExecutor() as pool:
            in_force = [made.current]
            target = made.members[0].target
            publishing = [pool.submit(publish, target, f"unary-{n}", over) for n in range(2)]
            try:
                made.blow("reloads", 2, RELOADS, lambda each: reload(each, in_force), RELOADS)
            finally:
                over.set()
            answered = [each.result() for each in publishing]
            assert made.tries == 2, "a collector had to begin again"
            assert made.members[0].stop() == 0
        engine = sa.create_engine(place.ledger_url)
        with engine.connect() as connection:
            decided = list(connection.scalars(sa.text("SELECT revision FROM decisions ORDER BY cursor")))
            activated = list(connection.scalars(sa.text("SELECT revision FROM activations ORDER BY seq")))
        engine.dispose()
    assert activated == in_force
    assert len(in_force) == RELOADS + 1
    for revisions in (decided, *answered):
        assert out_of_order(revisions, in_force) == []
        assert len(set(revisions)) > RELOADS // 2, "it was over too soon: this shows nothing"
    # Control: a decision that is of the revision before, or of none, is seen.
    assert out_of_order([*decided, in_force[0], "0" * 64], in_force) == [in_force[0], "0" * 64]
