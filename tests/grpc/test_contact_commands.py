"""The commands about people: consent, contacts, erase, export, pause, resume, and the counter's screen."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_client import OutcomeKind
from opportune_client.testing import FakeOpportune
from opportune_service.cli import app as cli
from support.wire import timestamp
from typer.testing import CliRunner

NUMBER, PEER = "8613800000001", "8613900000002"
NOON_US = 1_800_000_000_000_000


@pytest.fixture
def fake() -> Iterator[FakeOpportune]:
    with FakeOpportune() as fake:
        yield fake


def run(fake: FakeOpportune, *arguments: object, code: int = 0, typed: str = "") -> str:
    command = [*map(str, arguments), "--target", fake.target]
    result = CliRunner().invoke(cli, command, input=typed)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


# Consent


def test_consent_is_recorded_and_what_is_newer_stays(fake: FakeOpportune) -> None:
    said = ("consent", NUMBER, "channel/sms")
    assert (
        run(fake, *said, "refuse", "--as-of", "2026-11-20T15:00:00+08:00")
        == "in force for channel/sms: refuse\n"
    )
    consent = fake.consents[NUMBER, "channel/sms"]
    assert consent.as_of.ToDatetime().isoformat() == "2026-11-20T07:00:00"
    assert consent.origin == "cli"
    shown = run(fake, *said, "allow", "--as-of", "2026-11-20T14:00:00+08:00", code=1)
    assert "Something newer stays in force for channel/sms: refuse" in shown
    assert NUMBER not in shown
    record = json.loads(run(fake, *said, "nothing", "--origin", "hotline", "--json"))
    assert (record["scope"], record["in_force"], record["applied"]) == ("channel/sms", "nothing", True)


@pytest.mark.parametrize("as_of", ["yesterday", "2026-11-20T15:00:00"])
def test_a_time_without_a_zone_is_a_wrong_command_line(fake: FakeOpportune, as_of: str) -> None:
    run(fake, "consent", NUMBER, "all", "refuse", "--as-of", as_of, code=2)
    run(fake, "consent", NUMBER, "all", "maybe", code=2)
    assert not fake.consents


# The contact view


@pytest.fixture
def viewed(fake: FakeOpportune) -> FakeOpportune:
    at = timestamp(NOON_US)
    outcome = types.Outcome(kind=types.OUTCOME_KIND_COMPLAINED, occurred_at=at, detail=f"ask {PEER}")
    fake.views[NUMBER] = pb.ContactView(
        subscriber_id=NUMBER,
        customer_name="Li",
        customer_manager="Wang",
        counts=[pb.ContactCount(channel="sms", type="marketing", business="tv", count=2, last_at=at)],
        services=[pb.ServiceContact(occurred_at=at, channel="counter", business="sim", succeeded=False)],
        complaints=[pb.ComplaintContact(occurred_at=at, channel="hotline", content=f"{PEER} called")],
        marketing=[
            pb.MarketingContact(
                decision_id="d1", occurred_at=at, channel="sms", campaign="mms",
                campaign_label="MMS for less", content="套餐", outcomes=[outcome],
                delivery_state=types.DELIVERY_STATE_SENT,
            ),
            pb.MarketingContact(occurred_at=at, origin="shop", channel="counter", product="tv"),
        ],
    )  # fmt: skip
    return fake


def test_contacts_are_shown_as_tables_without_numbers(viewed: FakeOpportune) -> None:
    shown = run(viewed, "contacts", NUMBER)
    for text in (
        "86138****0001",
        "Li",
        "looked after by Wang",
        "MMS for less",
        "套餐",
        "shop",
        "tv",
        "sim",
    ):
        assert text in shown
    assert "complained ask 86139****0002" in shown
    assert "no" in shown
    assert NUMBER not in shown
    assert PEER not in shown
    assert "inquiries" not in shown, "what is empty is left out"
    assert "No contacts." in run(viewed, "contacts", PEER)


def test_contacts_for_programs_hold_everything(viewed: FakeOpportune) -> None:
    record = json.loads(run(viewed, "contacts", NUMBER, "--json"))
    assert record["subscriber_id"] == NUMBER
    assert record["services"] == [
        {
            "occurred_at": "2027-01-15T08:00:00.000Z",
            "channel": "counter",
            "business": "sim",
            "succeeded": False,
        }
    ]
    assert record["complaints"][0]["content"] == f"{PEER} called"
    assert [each["delivery"] for each in record["marketing"]] == ["sent", ""]
    assert record["marketing"][0]["outcomes"][0]["outcome"] == "complained"
    assert record["queries"] == record["inquiries"] == []


# Erasure


def test_erase_asks_first(viewed: FakeOpportune) -> None:
    shown = run(viewed, "erase", NUMBER, "--reason", "case 7", code=1, typed="n\n")
    assert "Nothing was erased." in shown
    assert NUMBER in viewed.views
    assert "86138****0001 is erased" in run(viewed, "erase", NUMBER, "--reason", "case 7", typed="y\n")
    assert NUMBER not in viewed.views
    assert json.loads(run(viewed, "erase", NUMBER, "--reason", "x", "--yes", "--json")) == {
        "existed": False
    }
    assert "nothing was known of 86138****0001" in run(viewed, "erase", NUMBER, "--reason", "x", "--yes")
    run(viewed, "erase", NUMBER, "--yes", code=2)


# Export


def test_an_export_goes_on_after_its_cursor(fake: FakeOpportune) -> None:
    for n in range(3):
        fake.exports.append(
            pb.ExportedContact(
                decision_id=f"d{n}", subscriber_id=NUMBER, campaign=f"c{n % 2}", mode=types.MODE_AUTOMATIC
            )
        )
    fake.exports[2].outcome.kind = types.OUTCOME_KIND_ORDERED
    lines = [json.loads(line) for line in run(fake, "export").splitlines()]
    assert [(each["decision_id"], each["cursor"]) for each in lines] == [
        ("d0", "1"),
        ("d1", "2"),
        ("d2", "3"),
    ]
    assert [each.get("outcome") for each in lines] == [None, None, "ordered"]
    (line,) = run(fake, "export", "--after", "2").splitlines()
    assert json.loads(line)["decision_id"] == "d2"
    assert run(fake, "export", "--after", "3") == ""
    chosen = run(fake, "export", "--campaign", "c1", "--campaign", "x").splitlines()
    assert [json.loads(line)["decision_id"] for line in chosen] == ["d1"]


# Pauses


def test_pause_and_resume(fake: FakeOpportune) -> None:
    assert run(fake, "pause", "mms", "--reason", "wrong price") == "mms is paused, by fake: wrong price\n"
    assert "mms" in fake.paused
    record = json.loads(run(fake, "pause", "mms", "--reason", "another", "--json"))
    assert record == {"campaign": "mms", "paused": True, "by": "fake", "reason": "wrong price"}
    assert run(fake, "resume", "mms") == "mms goes on\n"
    assert json.loads(run(fake, "resume", "mms", "--reason", "x", "--json"))["paused"] is False
    assert fake.paused == {}
    run(fake, "pause", "mms", code=2)
    fake.fail("PauseCampaign", "NOT_FOUND", message="no such campaign")
    assert "no such campaign" in run(fake, "pause", "x", "--reason", "x", code=1)


# The counter


@pytest.fixture
def offering(fake: FakeOpportune) -> FakeOpportune:
    fake.advices.extend(
        [
            advice.Advice(
                decision_id="d1", campaign="care", campaign_label="Care plan", product_label="Care",
                content=f"Offer care to {NUMBER}.", reasons=["often calls", f"called {PEER}"],
            ),
            advice.Advice(decision_id="d2", campaign="tv", product="tv", content="Offer TV."),
        ]
    )  # fmt: skip
    return fake


def outcomes(fake: FakeOpportune) -> list[tuple[str, int]]:
    return [(each.decision_id, each.kind) for each in fake.outcomes]


def test_a_clerk_serves_one_customer_after_the_other(offering: FakeOpportune) -> None:
    # "abc" is no number, "x" is no key.
    typed = f"abc\n+{NUMBER}\nx\nA\nlater\n{PEER}\nr\nn\n\n"
    shown = run(offering, "counter", "--agent", "clerk-12", typed=typed)
    assert "A number has digits only." in shown
    assert [(each.subscriber_id, each.touch_point, each.agent) for each in offering.visits] == [
        (NUMBER, "counter", "clerk-12"),
        (PEER, "counter", "clerk-12"),
    ]
    assert outcomes(offering) == [
        ("d1", OutcomeKind.ACCEPTED),
        ("d2", OutcomeKind.LATER),
        ("d1", OutcomeKind.REFUSED),
        ("d2", OutcomeKind.NOT_OFFERED),
    ]
    for text in ("86138****0001", "1. Care", "Care plan", "because often calls", "2. tv", "Offer TV."):
        assert text in shown
    assert NUMBER not in shown
    assert PEER not in shown


def test_a_number_that_the_service_refuses_does_not_close_the_counter(offering: FakeOpportune) -> None:
    offering.fail("Advise", "INVALID_ARGUMENT", message="subscriber_id must be 5 to 15 digits")
    shown = run(offering, "counter", typed=f"12\n{NUMBER}\na\na\n")
    assert "must be 5 to 15 digits" in shown
    assert len(offering.outcomes) == 2


def test_input_that_ends_in_the_middle_ends_the_counter(offering: FakeOpportune) -> None:
    run(offering, "counter", typed=f"{NUMBER}\na\n", code=1)
    assert outcomes(offering) == [("d1", OutcomeKind.ACCEPTED)]


def test_a_script_reports_the_outcome_of_the_best_offer(offering: FakeOpportune) -> None:
    shown = run(offering, "counter", "--at", "desk", "--subscriber", NUMBER, "--outcome", "accepted")
    assert outcomes(offering) == [("d1", OutcomeKind.ACCEPTED), ("d2", OutcomeKind.NOT_OFFERED)]
    assert "care: accepted" in shown
    assert offering.visits[0].touch_point == "desk"
    assert NUMBER not in shown


def test_without_an_outcome_a_script_only_looks(offering: FakeOpportune) -> None:
    assert "Offer TV." in run(offering, "counter", "--subscriber", NUMBER)
    assert outcomes(offering) == []
    offering.advices.clear()
    shown = run(offering, "counter", "--subscriber", NUMBER, "--outcome", "later")
    assert "leave this customer alone" in shown
    run(offering, "counter", "--outcome", "later", code=2)
    run(offering, "counter", "--subscriber", NUMBER, "--outcome", "x", code=2)
