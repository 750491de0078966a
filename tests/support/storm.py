"""A storm: several collectors publish at once about the same people, to any member of a service, while
members and stores are killed, hang, are cut off and come back. Afterwards the books are checked by counts.

The rulebase makes the bounds bite: each customer brings far more occasions than the cap allows, and all of
them together more than the quota does.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import sqlalchemy as sa
from opportune.v1 import rulebase_service_pb2 as rulebases_pb
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub
from opportune_rulebase import to_archive
from opportune_service.core.events import Event
from support.collecting import await_ready, channel_to, deliver, know, settled_counts, truth
from support.installations import Installation
from support.outages import strikes, struck
from support.processes import Served, serving_with
from support.small_rulebase import mms, subscribers
from support.unsafe_service import off

CAP, QUOTA = 3, 20
PEOPLE = subscribers(30)
BATCH = 10


def storm_rulebase(version: str = "now") -> dict[str, bytes]:
    """From a customer's third MMS on each brings both offers, as far as the cap and a quota let it.
    `version` is a word of the messages: each makes another revision that decides the same."""
    files = {
        "rulebase.yaml": "rulebase: storm\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events: {mms_sent: {attributes: {size_kb: {type: int, min: 0}}}}
            channels: {sms: {mode: automatic}}
            products:
              data: {label: Data, category: data}
              music: {label: Music, category: music}
            """,
        "behaviours.yaml": """\
            metrics: {mms_30d: {count: mms_sent, days: 30}}
            behaviours: {sends: {label: sends MMS, when: metric.mms_30d >= 3}}
            """,
        "policies.yaml": f"""\
            caps: {{weekly: {{limit: {CAP}, period: {{rolling: 7d}}}}}}
            arbitration: {{max_automatic: 2}}
            """,
    }
    for name, quota in (("data", ""), ("music", f"quota: {{total: {QUOTA}, otherwise: next}}")):
        files[f"campaigns/{name}.yaml"] = f"""\
            campaign: {name}
            product: {name}
            on: [mms_sent]
            when: behaviour.sends
            mode: automatic
            channels: [sms]
            fresh_for: 6h
            content: {{sms: "More {name} {version}."}}
            {quota}
            """
    return {name: dedent(text).encode() for name, text in files.items()}


@dataclass
class Storm:
    """A service of some members on an installation, and all that its collectors were to deliver."""

    place: Installation
    members: Sequence[Served]
    rng: random.Random
    delivered: list[Sequence[Event]] = field(default_factory=list)
    revisions: set[str] = field(default_factory=set)
    """Those that were active at some time."""
    reloads: int = 0
    tries: int = 0
    """How often a collector began a stream."""
    current: str = ""
    """The revision that `reload` activated last."""
    _acks: int = 0
    _acked: threading.Condition = field(default_factory=threading.Condition)
    _failures: list[BaseException] = field(default_factory=list)

    def blow(
        self,
        name: str,
        collectors: int,
        batches: int,
        disturb: Callable[[Storm], None],
        disturbances: int,
    ) -> None:
        """Let so many collectors each deliver so many batches, and call `disturb` so many times while they
        do, at even distances. Returns when everything is delivered; raises what went wrong."""
        rng = random.Random(self.rng.random())
        sent = [self._traffic(f"{name}-{n}", batches) for n in range(collectors)]
        threads = [
            threading.Thread(
                target=self._collect, args=(f"{name}-{n}", each, random.Random(rng.random())), daemon=True
            )
            for n, each in enumerate(sent)
        ]
        self._acks = 0
        for thread in threads:
            thread.start()
        for n in range(disturbances):
            self._wait_for(collectors * batches * (n + 1) // (disturbances + 1))
            if not self._failures:
                disturb(self)
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        for each in sent:
            self.delivered += each

    def _traffic(self, prefix: str, batches: int) -> list[list[Event]]:
        """MMS of a moment ago, of people drawn at random, one in ten of them twice."""
        now_us, sent = time.time_ns() // 1_000, []
        for n in range(batches):
            batch = [
                mms(self.rng.choice(PEOPLE), f"{prefix}-{n}-{m}", now_us - 10_000_000 + n * 1_000 + m)
                for m in range(BATCH)
            ]
            batch[-1] = self.rng.choice(sent[-1]) if sent else batch[-1]
            sent.append(batch)
        return sent

    def _collect(self, source: str, batches: Sequence[Sequence[Event]], rng: random.Random) -> None:
        seen = 0

        def on_ack(acked: int) -> None:
            nonlocal seen
            if acked > seen:
                with self._acked:
                    self._acks += acked - seen
                    self._acked.notify_all()
                seen = acked

        def choose() -> str:
            with self._acked:
                self.tries += 1
            return rng.choice(self.members).target

        try:
            deliver(
                choose,
                source,
                batches,
                on_ack,
                lambda: rng.choice((0, 0, 1, 5)),
            )
        except BaseException as error:  # noqa: BLE001 - raised again where the storm is waited for
            with self._acked:
                self._failures.append(error)
                self._acked.notify_all()

    def _wait_for(self, acks: int) -> None:
        with self._acked:
            if not self._acked.wait_for(lambda: self._acks >= acks or self._failures, timeout=120):
                raise AssertionError("for two minutes nothing was acknowledged")

    # -- what may happen ------------------------------------------------------------------------------

    def troubles(self) -> list[str]:
        """Everything that can be made to happen here."""
        return ["member killed", "member stopped", "member hangs", "reload", *strikes(self.place)]

    def make(self, trouble: str, seconds: float) -> None:
        """Make it happen to some member or to the store; what is not over at once lasts so long."""
        member = self.rng.choice(self.members)
        match trouble:
            case "reload":
                self.reload()
            case "member killed":
                member.kill()
                member.start()
            case "member stopped":
                assert member.stop() == 0, "it did not end in good order"
                member.start()
            case "member hangs":
                member.freeze()
                _last(seconds)
                member.thaw()
            case _:
                with struck(self.place, member, trouble):
                    _last(seconds)

    def reload(self) -> None:
        """Activate another revision, by any member that is ready to."""
        self.reloads += 1
        archive = rulebases_pb.RulebaseArchive(data=to_archive(storm_rulebase(f"v{self.reloads % 7}")))
        target = self.rng.choice(self.members).target
        if self.current:
            await_ready(target)  # a store may have come back just now
        with channel_to(target) as channel:
            stub = RulebaseServiceStub(channel)
            upload = rulebases_pb.UploadRulebaseRequest(archive=archive)
            made = stub.UploadRulebase(upload, timeout=30, wait_for_ready=True)
            revision = made.rulebase.revision
            self.revisions.add(revision)
            activation = rulebases_pb.ActivateRulebaseRequest(
                revision=revision, expected_current_revision=self.current
            )
            stub.ActivateRulebase(activation, timeout=30)
            self.current = revision

    # -- the books ------------------------------------------------------------------------------------

    def check_counts(self) -> None:
        """Every MMS that was acknowledged is counted once, whoever is asked."""
        real = dict.fromkeys(PEOPLE, 0) | truth(self.delivered)
        counted = settled_counts(self.rng.choice(self.members).target, PEOPLE, real)
        assert counted == real, differences(counted, real)

    def check_ledger(self) -> None:
        """By an independent count over the ledger, which on SQLite nobody may have open. Every bound is
        reached, for there were occasions enough, and none is exceeded."""
        engine = sa.create_engine(self.place.ledger_url)
        with engine.connect() as connection:

            def rows(query: str) -> list[tuple[object, ...]]:
                return [tuple(row) for row in connection.execute(sa.text(query))]

            made = dict(rows("SELECT subscriber_id, count(*) FROM contacts GROUP BY 1"))
            music = rows("SELECT count(*) FROM contacts WHERE campaign = 'music'")
            twice = rows(
                "SELECT source, event_id, campaign, count(*) FROM decisions"
                " GROUP BY 1, 2, 3 HAVING count(*) > 1"
            )
            decided = rows("SELECT decision_id FROM decisions WHERE reason = 'decided'")
            waiting = rows("SELECT decision_id FROM deliveries")
            revisions = {revision for (revision,) in rows("SELECT DISTINCT revision FROM decisions")}
            events = rows("SELECT count(*) FROM verdicts")
        engine.dispose()
        real = truth(self.delivered)
        assert twice == [], "decided twice"
        expected = {who: CAP for who, sent in real.items() if sent >= CAP + 2}
        got = {who: made.get(who, 0) for who in expected}
        assert got == expected, differences(got, expected)
        assert not {who: n for who, n in made.items() if n > CAP}
        assert sorted(decided) == sorted(waiting), "an offer without its delivery, or the other way round"
        assert len(decided) == sum(made.values())
        assert len(expected) >= QUOTA, "too few occasions: the storm shows nothing"
        assert music == [(QUOTA,)], "the quota"
        assert revisions <= self.revisions, "decided by a revision that was never active"
        occasions = sum(max(0, sent - 2) for sent in real.values())
        assert events == [(occasions,)], f"{events} verdicts of {occasions} occasions"


def _last(seconds: float) -> None:
    threading.Event().wait(seconds)


def differences(found: dict[str, int], real: dict[str, int]) -> str:
    wrong = {who: (found.get(who), n) for who, n in real.items() if found.get(who) != n}
    return f"(found, true) of {len(wrong)}: {dict(list(wrong.items())[:5])}"


@contextmanager
def storm(
    place: Installation,
    seed: int,
    members: int = 1,
    *,
    log: Path | None = None,
    without: str = "",
    checkpoint_seconds: float = 0.5,
) -> Iterator[Storm]:
    """A service of so many members, its rulebase active and its people known. `without`: the safety that it
    goes without (`unsafe_service`)."""
    environment = {**place.environment, "OPPORTUNE_CHECKPOINT_SECONDS": str(checkpoint_seconds)} | off(
        without
    )
    with ExitStack() as stack:
        served = [stack.enter_context(serving_with(environment, log=log)) for _ in range(members)]
        made = Storm(place, served, random.Random(seed))
        made.reload()
        for member in served:
            await_ready(member.target)
        know(served[0].target, PEOPLE)
        yield made
