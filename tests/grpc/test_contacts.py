"""Consent, contacts of other systems, the contact view and export, over the wire and by the client."""

from __future__ import annotations

import asyncio
import re
import runpy
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_client import AsyncCrmClient, CrmClient, Mode, RecordedContact, connect_async, from_timestamp
from opportune_rulebase import load
from opportune_rulebase.model import TouchKind
from opportune_service.clocks import ManualClock, WallClock
from support.rulebases import NOON_US
from support.server import Service, in_loop, read_to_end, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp

HOUR_US = 3_600_000_000
STRANGER = "8613800000077"
NOON = from_timestamp(timestamp(NOON_US))
ALLOWED, REFUSED = types.CONSENT_STATE_ALLOWED, types.CONSENT_STATE_REFUSED
NOTHING = types.CONSENT_STATE_UNSPECIFIED
EAGER = small_rulebase(threshold=1)
DECIDED, CAPPED = types.REASON_DECIDED, types.REASON_CAPPED


def with_touches() -> dict[str, bytes]:
    files = small_rulebase(threshold=1)
    more = b"""
  hotline_complaint:
    touch: complaint
    attributes: {channel: string, department: string, complaint_type: string, content: string,
      handling: string, level: string, satisfaction: string}
  service_done: {touch: service, attributes: {channel: string, business: string, succeeded: bool}}
  hotline_inquiry: {touch: inquiry, attributes: {channel: string, topic: string}}
  balance_query: {touch: query, attributes: {channel: string, topic: string}}
"""
    vocabulary = files["vocabulary.yaml"].replace(b"events:\n", b"events:" + more, 1)
    vocabulary = vocabulary.replace(
        b"{age: int}", b"{age: int, customer_name: string, customer_manager: string}"
    )
    return files | {"vocabulary.yaml": vocabulary}


async def say(
    service: Service, scope: str, state: Any, as_of_us: int = NOON_US - HOUR_US, who: str = SOMEBODY
) -> pb.SetConsentResponse:
    consent = types.Consent(scope=scope, state=state, as_of=timestamp(as_of_us), origin="hotline")
    request = pb.SetConsentRequest(subscriber_id=who, consent=consent)
    answer: pb.SetConsentResponse = await service.subscribers.SetConsent(request)
    return answer


async def bring(service: Service, who: str = SOMEBODY, **context: Any) -> None:
    messages = (import_header(NOON_US - 2 * HOUR_US), import_batch({who: {"age": 30} | context}))
    await service.subscribers.ImportSubscribers(iter(messages))


async def decide(service: Service, event_id: str, who: str = SOMEBODY) -> int:
    """The reason with which an MMS ends."""
    await service.events.PublishEvents(publish(event(event_id, who)))
    key = insight.EventKey(subscriber_id=who, source="smsc", event_id=event_id)
    explained = await service.insight.ExplainDecision(insight.ExplainDecisionRequest(event=key))
    (decision,) = explained.verdict.decisions
    reason: int = decision.reason
    return reason


async def consents(service: Service, who: str = SOMEBODY) -> dict[str, int]:
    request = pb.GetSubscriberRequest(subscriber_id=who)
    shown = (await service.subscribers.GetSubscriber(request)).subscriber
    return {each.scope: each.state for each in shown.consents}


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


# Consent


@in_loop
async def test_a_refusal_is_in_force_for_the_next_decision_and_outlives_a_restart(tmp_path: Path) -> None:
    async with running_service(tmp_path, EAGER) as service:
        await bring(service)
        assert await decide(service, "1") == DECIDED
        answer = await say(service, "channel/sms", REFUSED)
        assert answer.applied
        assert answer.consent.origin == "hotline"
        assert answer.consent.as_of == timestamp(NOON_US - HOUR_US)
        assert await decide(service, "2") == types.REASON_NO_CHANNEL
    async with running_service(tmp_path, EAGER) as service:
        assert await consents(service) == {"channel/sms": REFUSED}
        assert await decide(service, "3") == types.REASON_NO_CHANNEL
        assert (await say(service, "channel/sms", ALLOWED, NOON_US)).applied
        assert await decide(service, "4") == DECIDED


@in_loop
async def test_a_message_that_waits_is_withdrawn_and_caps_give_it_back() -> None:
    async with running_service(files=EAGER) as service:
        await bring(service)
        assert await decide(service, "1") == DECIDED
        await say(service, "channel/sms", REFUSED)
        assert await service.app.deliveries.lease("sms", 10) == []
        view = await contact_view(service)
        assert list(view.marketing) == [], "nobody was contacted"
        await say(service, "channel/sms", ALLOWED, NOON_US)
        assert [await decide(service, str(n)) for n in (2, 3, 4)] == [DECIDED, DECIDED, CAPPED]
        assert len(await service.app.deliveries.lease("sms", 10)) > 0, "the control"


@in_loop
async def test_the_newest_wins_and_a_refusal_wins_a_tie() -> None:
    async with running_service(files=EAGER) as service:
        for scope in ("channel/sms", "category/messaging", "all"):
            assert (await say(service, scope, ALLOWED, 5)).applied
            assert (await say(service, scope, ALLOWED, 5)).applied, "the same again"
            assert (await say(service, scope, REFUSED, 5)).applied
            for state, as_of_us in ((ALLOWED, 5), (ALLOWED, 4), (REFUSED, 4), (NOTHING, 5)):
                answer = await say(service, scope, state, as_of_us)
                assert not answer.applied
                assert (answer.consent.state, answer.consent.as_of) == (REFUSED, timestamp(5))
            assert (await say(service, scope, ALLOWED, 6)).applied
            answer = await say(service, scope, NOTHING, 7)
            assert answer.applied
            assert answer.consent.state == NOTHING
            assert not (await say(service, scope, REFUSED, 6)).applied, "that was taken back later"


@in_loop
async def test_a_word_that_is_sent_again_does_not_outdo_what_was_said_since() -> None:
    clock = ManualClock(NOON_US)
    async with running_service(files=EAGER, clock=clock) as service:
        await bring(service)
        states = []
        for state, name in ((ALLOWED, "first"), (REFUSED, ""), (ALLOWED, "first"), (ALLOWED, "new")):
            clock.value_us += 1_000_000
            consent = types.Consent(scope="channel/sms", state=state)
            request = pb.SetConsentRequest(subscriber_id=SOMEBODY, consent=consent, request_id=name)
            states.append((await service.subscribers.SetConsent(request)).consent.state)
        assert states == [ALLOWED, REFUSED, REFUSED, ALLOWED]


@in_loop
async def test_do_not_contact_and_categories() -> None:
    async with running_service(files=EAGER) as service:
        await bring(service)
        for n, scope in enumerate(("all", "category/messaging")):
            await say(service, scope, REFUSED)
            assert scope in await consents(service)
            assert await decide(service, f"{n}a") == types.REASON_SUPPRESSED
            await say(service, scope, NOTHING, NOON_US)
            assert await consents(service) == {}
            assert await decide(service, f"{n}b") == DECIDED


@in_loop
async def test_a_stranger_who_refuses_something_is_a_stranger_still() -> None:
    async with running_service(files=EAGER) as service:
        await say(service, "category/care", REFUSED, who=STRANGER)
        assert await decide(service, "1", STRANGER) == types.REASON_NO_CONTEXT
        assert await consents(service, STRANGER) == {"category/care": REFUSED}
        await bring(service, STRANGER)
        assert await consents(service, STRANGER) == {"category/care": REFUSED}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"subscriber_id": "x"}, "subscriber_id"),
        ({"consent": types.Consent(scope="channel/pigeon", state=REFUSED)}, "consent.scope"),
        ({"consent": types.Consent(scope="sms", state=REFUSED)}, "consent.scope"),
        ({"consent": types.Consent(state=REFUSED)}, "consent.scope"),
        ({"consent": types.Consent(scope="all", state=9)}, "consent.state"),  # type: ignore[arg-type]
        (
            {"consent": types.Consent(scope="all", state=REFUSED, as_of=timestamp(NOON_US + HOUR_US))},
            "consent.as_of",
        ),
        ({"consent": types.Consent(scope="all", state=REFUSED, origin="x" * 65)}, "consent.origin"),
    ],
)
def test_a_consent_that_cannot_be_taken_names_the_field(bad: dict[str, Any], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            fields = {"subscriber_id": SOMEBODY, "consent": types.Consent(scope="all", state=REFUSED)} | bad
            said = await refused(service.subscribers.SetConsent(pb.SetConsentRequest(**fields)))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    body()


# Contacts of other systems


def contact(id_: str, **changes: Any) -> pb.RecordedContact:
    fields = {
        "subscriber_id": SOMEBODY,
        "channel": "sms",
        "mode": types.MODE_AUTOMATIC,
        "occurred_at": timestamp(NOON_US - HOUR_US),
    }
    return pb.RecordedContact(id=id_, **fields | changes)


async def record(service: Service, *contacts: pb.RecordedContact, source: str = "shop") -> Any:
    request = pb.RecordContactsRequest(source=source, contacts=contacts)
    return await service.subscribers.RecordContacts(request)


@in_loop
async def test_contacts_of_other_systems_count_at_once_and_once() -> None:
    async with running_service(files=EAGER) as service:
        await bring(service)
        answer = await record(service, contact("1"), contact("1"), contact("2", product="mms-bundle"))
        assert (answer.recorded_count, answer.duplicate_count) == (2, 1)
        assert await decide(service, "1") == CAPPED, "two a week are enough, whoever made them"
        answer = await record(service, contact("1"), contact("3"))
        assert (answer.recorded_count, answer.duplicate_count) == (1, 1)
        assert (await record(service, contact("1"), source="hotline")).recorded_count == 1


@in_loop
async def test_contacts_of_systems_whose_names_and_ids_run_together_are_two() -> None:
    async with running_service(files=EAGER) as service:
        for source, id_ in (("a", "b/c"), ("a/b", "c"), ("a/b", "c"), ("a%2Fb", "c")):
            sent = pb.RecordedContact(
                id=id_,
                subscriber_id=SOMEBODY,
                channel="sms",
                mode=types.MODE_AUTOMATIC,
                occurred_at=timestamp(NOON_US),
            )
            await service.subscribers.RecordContacts(
                pb.RecordContactsRequest(source=source, contacts=[sent])
            )
        view = await contact_view(service)
        assert sorted(each.origin for each in view.marketing) == ["a", "a%2Fb", "a/b"]


@in_loop
async def test_bad_contacts_are_rejected_one_by_one() -> None:
    bad: list[tuple[dict[str, Any], int]] = [
        ({"subscriber_id": "12"}, types.REJECTION_REASON_BAD_SUBSCRIBER_ID),
        ({"id_": ""}, types.REJECTION_REASON_BAD_EVENT_ID),
        ({"mode": types.MODE_UNSPECIFIED}, types.REJECTION_REASON_BAD_VALUE),
        ({"occurred_at": None}, types.REJECTION_REASON_TOO_LATE),
        ({"occurred_at": timestamp(NOON_US + HOUR_US)}, types.REJECTION_REASON_IN_FUTURE),
        ({"channel": "pigeon"}, types.REJECTION_REASON_UNKNOWN_NAME),
        ({"channel": ""}, types.REJECTION_REASON_UNKNOWN_NAME),
        ({"product": "tv"}, types.REJECTION_REASON_UNKNOWN_NAME),
        ({"category": "tv"}, types.REJECTION_REASON_UNKNOWN_NAME),
        ({"product": "mms-bundle", "category": "care"}, types.REJECTION_REASON_BAD_VALUE),
        ({"content": "x" * 2_001}, types.REJECTION_REASON_TOO_LARGE),
        ({"campaign": "x" * 201}, types.REJECTION_REASON_BAD_VALUE),
        ({"content": "\0"}, types.REJECTION_REASON_BAD_VALUE),
    ]
    async with running_service() as service:
        sent = [contact(**{"id_": f"{n}-{SOMEBODY}"} | changes) for n, (changes, _) in enumerate(bad)]
        answer = await record(service, *sent, contact("good", category="care"))
        assert answer.recorded_count == 1
        assert [(each.index, each.reason) for each in answer.rejections] == [
            (n, reason) for n, (_, reason) in enumerate(bad)
        ]
        assert SOMEBODY not in str(answer.rejections)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RecordContactsRequest(contacts=[contact("1")]), "source"),
        (pb.RecordContactsRequest(source="shop"), "contacts"),
        (
            pb.RecordContactsRequest(source="shop", contacts=[contact(str(n)) for n in range(1_001)]),
            "contacts",
        ),
    ],
)
def test_a_bad_call_names_the_field(request_: pb.RecordContactsRequest, field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            assert (await refused(service.subscribers.RecordContacts(request_))).fields == [field]

    body()


# The contact view


@in_loop
async def test_the_contact_view_shows_everything_that_was_said() -> None:
    async with running_service(files=with_touches()) as service:
        await bring(service, customer_name="Li", customer_manager="Wang")
        assert await decide(service, "1") == DECIDED
        said = {
            "hotline_complaint": {"channel": "hotline", "department": "billing", "complaint_type": "price",
                "content": "too dear", "handling": "refund", "level": "2", "satisfaction": "good"},
            "service_done": {"channel": "counter", "business": "sim", "succeeded": True},
            "hotline_inquiry": {"channel": "hotline", "topic": "roaming"},
            "balance_query": {"channel": "web", "topic": "balance"},
        }  # fmt: skip
        touches = [
            event(f"t{n}", type=type_, at_us=NOON_US - n, attributes=attributes)
            for n, (type_, attributes) in enumerate(said.items())
        ]
        await service.events.PublishEvents(publish(*touches, source="crm"))
        await record(service, contact("9", campaign="their tv", content="Buy a TV!", product="care-plan"))

        view = await contact_view(service)
        ours, theirs = view.marketing
        outcome = advice.ReportOutcomeRequest(
            decision_id=ours.decision_id, kind=types.OUTCOME_KIND_COMPLAINED, detail="woke me up"
        )
        await service.advice.ReportOutcome(outcome)

        view = await contact_view(service)
        assert (view.customer_name, view.customer_manager) == ("Li", "Wang")
        (complaint,) = view.complaints
        shown = {
            name: getattr(complaint, name.removeprefix("complaint_")) for name in said["hotline_complaint"]
        }
        assert shown == said["hotline_complaint"]
        (done,) = view.services
        assert (done.channel, done.business, done.succeeded) == ("counter", "sim", True)
        assert [(each.channel, each.topic) for each in view.inquiries] == [("hotline", "roaming")]
        assert [(each.channel, each.topic) for each in view.queries] == [("web", "balance")]
        ours, theirs = view.marketing
        assert (ours.channel, ours.campaign, ours.campaign_label, ours.origin) == (
            "sms", "mms-bundle", "MMS bundle for heavy senders", "",
        )  # fmt: skip
        assert ours.content == "MMS for less: MMS bundle"
        assert [(each.kind, each.detail) for each in ours.outcomes] == [
            (types.OUTCOME_KIND_COMPLAINED, "woke me up")
        ]
        assert (theirs.decision_id, theirs.origin, theirs.campaign, theirs.content) == (
            "", "shop", "their tv", "Buy a TV!",
        )  # fmt: skip
        assert theirs.delivery_state == types.DELIVERY_STATE_UNSPECIFIED
        counts = {(each.type, each.channel, each.business): each.count for each in view.counts}
        assert counts[("complaint", "hotline", "")] == counts[("service", "counter", "sim")] == 1
        assert sum(count for (type_, *_), count in counts.items() if type_ == "marketing") == 2

        only = await contact_view(service, since=timestamp(NOON_US), page_size=1)
        assert (len(only.marketing), len(only.complaints), len(only.services)) == (1, 1, 0)
        assert not (await contact_view(service, until=timestamp(NOON_US - 2 * HOUR_US))).marketing


async def contact_view(service: Service, who: str = SOMEBODY, **fields: Any) -> Any:
    request = pb.GetContactViewRequest(subscriber_id=who, **fields)
    return (await service.subscribers.GetContactView(request)).view


@in_loop
async def test_the_view_of_a_stranger_is_empty_and_makes_nobody_known() -> None:
    async with running_service() as service:
        assert await contact_view(service, STRANGER) == pb.ContactView(subscriber_id=STRANGER)
        get = service.subscribers.GetSubscriber(pb.GetSubscriberRequest(subscriber_id=STRANGER))
        assert (await refused(get)).code is grpc.StatusCode.NOT_FOUND


# Export


@in_loop
async def test_an_export_tells_every_change_and_goes_on_where_it_ended() -> None:
    async with running_service(files=EAGER) as service, connect_async(service.address) as channel:
        crm = AsyncCrmClient(channel)
        await bring(service)
        await decide(service, "1")
        await record(service, contact("9"))
        pieces = [piece async for piece in crm.export_contacts()]
        first, second = pieces[-1].contacts
        assert (first.subscriber_id, first.campaign, first.delivery_state) == (
            SOMEBODY, "mms-bundle", types.DELIVERY_STATE_PENDING,
        )  # fmt: skip
        assert (second.origin, second.decision_id, second.delivery_state) == ("shop", "", 0)
        cursor = pieces[-1].cursor
        assert [piece async for piece in crm.export_contacts(cursor)] == []

        outcome = advice.ReportOutcomeRequest(
            decision_id=first.decision_id, kind=types.OUTCOME_KIND_ORDERED
        )
        await service.advice.ReportOutcome(outcome)
        (piece,) = [piece async for piece in crm.export_contacts(cursor)]
        told = [each for each in piece.contacts if each.HasField("outcome")]
        assert [(each.decision_id, each.outcome.kind) for each in told] == [
            (first.decision_id, types.OUTCOME_KIND_ORDERED)
        ]
        assert all(each.subscriber_id == SOMEBODY for each in piece.contacts)
        (only,) = [piece async for piece in crm.export_contacts(campaigns=["mms-bundle"])]
        assert {each.campaign for each in only.contacts} == {"mms-bundle"}
        assert [piece async for piece in crm.export_contacts(campaigns=["x"])] == []


@in_loop
async def test_a_long_export_comes_in_pieces_each_entry_once() -> None:
    async with running_service() as service:
        ids = [f"c{n}" for n in range(1_000)]
        await record(service, *(contact(id_, subscriber_id=f"86138{n:08}") for n, id_ in enumerate(ids)))
        stream = service.subscribers.ExportContacts(pb.ExportContactsRequest())
        pieces = [piece async for piece in stream]
        assert len(pieces) > 1
        numbers = [each.subscriber_id for piece in pieces for each in piece.contacts]
        assert numbers == [f"86138{n:08}" for n in range(1_000)]
        middle = pb.ExportContactsRequest(cursor=pieces[0].cursor)
        rest = [piece async for piece in service.subscribers.ExportContacts(middle)]
        assert [each for piece in rest for each in piece.contacts] == [
            each for piece in pieces[1:] for each in piece.contacts
        ]


FAR = [Timestamp(seconds=sign * 2**62) for sign in (-1, 1)]


@in_loop
async def test_what_cannot_be_searched_for_names_the_field() -> None:
    async with running_service(files=EAGER) as service:
        for far in FAR:
            for name in ("since", "until"):
                for call in (
                    service.subscribers.GetContactView(
                        pb.GetContactViewRequest(subscriber_id=SOMEBODY, **{name: far})
                    ),
                    service.insight.ListDecisions(insight.ListDecisionsRequest(**{name: far})),
                    service.insight.ListQuarantine(insight.ListQuarantineRequest(**{name: far})),
                ):
                    assert set((await refused(call)).fields) == {name}
        many = pb.ExportContactsRequest(campaigns=[f"c{n}" for n in range(1_001)])
        assert set((await refused(read_to_end(service.subscribers.ExportContacts(many)))).fields) == {
            "campaigns"
        }
        often = insight.ListDecisionsRequest(reasons=[DECIDED] * 300_000)
        assert not (await service.insight.ListDecisions(often)).decisions


@in_loop
async def test_a_seed_that_is_nested_without_end_is_no_fault_of_the_server() -> None:
    async with running_service(files=EAGER) as service:
        seed = pb.MetricSeed(name="x", days=[pb.MetricSeedDay(date="2026-01-01", value_json="[" * 100_000)])
        record = pb.SubscriberRecord(subscriber_id=SOMEBODY, metrics=[seed])
        batch = pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=[record]))
        messages = (import_header(NOON_US - HOUR_US), batch)
        await service.subscribers.ImportSubscribers(iter(messages))


@in_loop
async def test_a_cursor_that_no_answer_gave_is_refused() -> None:
    async with running_service() as service:
        for cursor in ("x", "-1", "1" * 30, "１"):
            stream = service.subscribers.ExportContacts(pb.ExportContactsRequest(cursor=cursor))
            assert (await refused(stream.read())).fields == ["cursor"]


# By the client


@in_loop
async def test_the_clients_say_the_same() -> None:
    async with running_service(files=EAGER) as service, connect_async(service.address) as channel:
        await bring(service)
        crm = AsyncCrmClient(channel)
        contacts = [
            RecordedContact(f"c{n}", SOMEBODY if n else "x", "sms", Mode.MANUAL, NOON) for n in range(1_002)
        ]
        answer = await crm.record_contacts("shop", contacts)
        assert (answer.recorded_count, answer.duplicate_count) == (1_001, 0)
        assert [each.index for each in answer.rejections] == [0]
        assert (await crm.set_consent(SOMEBODY, "channel/sms", False, as_of=NOON)).applied
        view = await crm.get_contact_view(SOMEBODY, page_size=7)
        assert len(view.marketing) == 7

        def synchronously() -> None:
            with grpc.insecure_channel(service.address) as own:
                client = CrmClient(own)
                assert client.record_contacts("shop", contacts[1:3]).duplicate_count == 2
                assert not client.set_consent(SOMEBODY, "channel/sms", True, as_of=NOON).applied
                assert client.get_contact_view(SOMEBODY, page_size=7) == view
                assert sum(len(piece.contacts) for piece in client.export_contacts()) == 1_001
                assert client.delete_subscriber(SOMEBODY, "asked for it").existed
                assert list(client.export_contacts()) == []

        await asyncio.to_thread(synchronously)
        assert not (await crm.delete_subscriber(SOMEBODY, "again")).existed


# What is written about it

ROOT = Path(__file__).parents[2]


@in_loop
async def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "clients" / "examples" / "contacts.py"
    example = runpy.run_path(str(path))
    async with running_service(files=EAGER, clock=WallClock()) as service:
        await asyncio.to_thread(example["main"], service.address)
    assert capsys.readouterr().out.splitlines() == [
        "in force: channel/sms refused, as was said: True",
        "recorded: 1, known before: 0",
        "shop on counter: Hello! []",
        "1 changes, up to 1",
    ]


@in_loop
async def test_the_guide_for_programmers_runs() -> None:
    text = (ROOT / "docs" / "guides" / "clients.md").read_text(encoding="utf-8")
    section = text.partition("## Consent and contacts\n")[2]
    [code] = re.findall(r"^```python\n(.*?)^```", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    stored: list[Any] = []
    async with running_service(files=EAGER) as service:

        def follow() -> None:
            with grpc.insecure_channel(service.address) as channel:
                names = {"crm": CrmClient(channel), "spoken_at": NOON, "cursor": "", "store": stored.extend}
                exec(code, names)  # noqa: S102

        await asyncio.to_thread(follow)
    assert [each.origin for each in stored] == ["shop"]


def test_the_touch_of_the_guide_is_what_the_view_shows() -> None:
    text = (ROOT / "docs" / "guides" / "contacts.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```yaml\n# vocabulary.yaml\nevents:\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    files = small_rulebase()
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"events:\n", b"events:\n" + block.encode(), 1
    )
    event_type = load(files).vocabulary.events["hotline_complaint"]
    assert event_type.touch is TouchKind.COMPLAINT
    shown = {field.name for field in pb.ComplaintContact.DESCRIPTOR.fields} - {"occurred_at", "type"}
    assert event_type.attributes.keys() == shown | {"complaint_type"}
