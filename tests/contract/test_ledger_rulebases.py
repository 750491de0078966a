"""What the ledger keeps of revisions: uploads, signatures, steps, and what is in force."""

from __future__ import annotations

import pytest
from opportune_service.app.errors import StoreConflictError, UnknownRevisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import (
    ActivationMode,
    InForce,
    Pause,
    PauseChange,
    RulebaseRow,
    Step,
    StepKind,
)
from support.verdicts import NOON_US

FULL, CANARY, SHADOW = ActivationMode


def upload(ledger: Ledger, revision: str, at_us: int = NOON_US) -> RulebaseRow:
    row = RulebaseRow(revision, "province", at_us, "li", f"why {revision}")
    with ledger.transaction() as tx:
        assert tx.save_rulebase(row, revision.encode())
    return row


def note(ledger: Ledger, revision: str, kind: StepKind, by: str = "li", at_us: int = NOON_US) -> Step:
    step = Step(revision, at_us, by, kind, f"{kind} by {by}")
    with ledger.transaction() as tx:
        tx.note_step(step)
    return step


def activate(
    ledger: Ledger,
    revision: str,
    expected: str,
    mode: ActivationMode = FULL,
    share: int = 0,
    at_us: int = NOON_US,
    kind: StepKind = StepKind.ACTIVATED,
) -> InForce:
    with ledger.transaction() as tx:
        tx.activate(revision, expected, at_us, "wang", "because", {}, (), mode, share, kind)
    return InForce(revision, mode, share, at_us, "wang", "because")


def test_steps_are_kept_in_order_of_recording(ledger: Ledger) -> None:
    for revision in ("r1", "r2"):
        upload(ledger, revision)
    assert list(ledger.steps()) == []
    steps = [
        note(ledger, "r1", StepKind.UPLOADED),
        note(ledger, "r2", StepKind.DRAFTED, "ann"),
        # A clock that went back changes no order.
        note(ledger, "r1", StepKind.TESTED, "wang", NOON_US - 5),
        note(ledger, "r1", StepKind.REHEARSED),
        note(ledger, "r1", StepKind.APPROVED, "ann"),
    ]
    activate(ledger, "r1", "", at_us=NOON_US + 1)
    steps.append(Step("r1", NOON_US + 1, "wang", StepKind.ACTIVATED, "because", FULL))
    assert list(ledger.steps()) == steps
    assert list(ledger.steps(["r1"])) == [step for step in steps if step.revision == "r1"]
    assert list(ledger.steps(["r2", "unknown"])) == [steps[1]]
    assert list(ledger.steps([])) == []


def test_nothing_is_noted_of_what_is_not_kept(ledger: Ledger) -> None:
    with pytest.raises(UnknownRevisionError):
        note(ledger, "r1", StepKind.APPROVED)
    upload(ledger, "r1")
    for wrong, error in (("r2", UnknownRevisionError), ("r1", StoreConflictError)):
        with pytest.raises(error):
            activate(ledger, wrong, "what is not in force")
    assert list(ledger.steps()) == []
    assert list(ledger.in_force()) == []


def test_one_of_each_mode_is_in_force_and_full_ends_the_others(ledger: Ledger) -> None:
    for revision in ("r1", "r2", "r3", "r4"):
        upload(ledger, revision)
    assert list(ledger.in_force()) == []
    full = activate(ledger, "r1", "")
    assert list(ledger.in_force()) == [full]
    shadow = activate(ledger, "r2", "r1", SHADOW)
    activate(ledger, "r3", "r1", CANARY, 50_000)
    canary = activate(ledger, "r3", "r1", CANARY, 100_000, NOON_US + 1)
    assert list(ledger.in_force()) == [full, canary, shadow]
    assert ledger.active_revision() == "r1"
    with pytest.raises(StoreConflictError):
        activate(ledger, "r4", "r3", SHADOW)
    shadow = activate(ledger, "r4", "r1", SHADOW)
    assert list(ledger.in_force()) == [full, canary, shadow]
    full = activate(ledger, "r3", "r1")
    assert list(ledger.in_force()) == [full], "and so it has ended them"
    assert [(step.mode, step.share) for step in ledger.steps(["r3"])] == [
        (CANARY, 50_000),
        (CANARY, 100_000),
        (FULL, 0),
    ]


def test_the_one_before_is_the_last_other_one_in_full_force(ledger: Ledger) -> None:
    for revision in ("r1", "r2", "r3"):
        upload(ledger, revision)
    assert ledger.full_before("r1") == ""
    activate(ledger, "r1", "")
    assert (ledger.full_before("r1"), ledger.full_before("unknown")) == ("", "")
    activate(ledger, "r3", "r1", CANARY, 1)
    activate(ledger, "r2", "r1")
    activate(ledger, "r2", "r2")  # again, which ends a canary
    assert (ledger.full_before("r2"), ledger.full_before("r3")) == ("r1", "")
    activate(ledger, "r1", "r2", kind=StepKind.ROLLED_BACK)
    assert (ledger.full_before("r1"), ledger.full_before("r2")) == ("r2", "r1")
    assert ledger.steps(["r1"])[-1].kind is StepKind.ROLLED_BACK


def test_uploads_come_in_pages_the_newest_first(ledger: Ledger) -> None:
    rows = [upload(ledger, f"r{n}", NOON_US + n // 2) for n in range(5)]
    newest_first = sorted(rows, key=lambda row: (-row.uploaded_at_us, row.revision))
    assert list(ledger.rulebases()) == newest_first
    paged: list[RulebaseRow] = []
    while page := ledger.rulebases(paged[-1] if paged else None, 2):
        assert len(page) <= 2
        paged += page
    assert paged == newest_first
    assert ledger.rulebase("r3") == rows[3]
    assert ledger.rulebase("r9") is None


def test_a_signature_may_come_later_and_takes_its_archive_with_it(ledger: Ledger) -> None:
    first = upload(ledger, "r1")
    again = RulebaseRow("r1", "province", NOON_US + 9, "wang", "another")
    assert (ledger.rulebase_archive("r1"), ledger.rulebase_signature("r1")) == (b"r1", b"")

    def save(archive: bytes, signature: bytes, *, replace: bool) -> bool:
        with ledger.transaction() as tx:
            return tx.save_rulebase(again, archive, signature, replace=replace)

    assert not save(b"other", b"", replace=False)
    assert not save(b"other", b"sig", replace=False), "whoever signed that is not known"
    assert (ledger.rulebase_archive("r1"), ledger.rulebase_signature("r1")) == (b"r1", b"")
    assert save(b"signed", b"sig", replace=True)
    assert (ledger.rulebase_archive("r1"), ledger.rulebase_signature("r1")) == (b"signed", b"sig")
    assert not save(b"signed", b"sig", replace=True), "it has it"
    assert save(b"by another", b"gis", replace=True)
    assert (ledger.rulebase_archive("r1"), ledger.rulebase_signature("r1")) == (b"by another", b"gis")
    assert list(ledger.rulebases()) == [first], "who uploaded it first did"
    assert ledger.rulebase_signature("unknown") == b""


def test_pauses_and_resumptions_stay_known(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.pause(Pause("gift", NOON_US, "alarm", "too many"))
        tx.pause(Pause("gift", NOON_US + 1, "wang", "paused already"))
        tx.resume("gift", NOON_US + 2, "wang", "")
        tx.resume("gift", NOON_US + 3, "wang", "runs already")
        tx.pause(Pause("other", NOON_US + 4, "wang", "wrong price"))
    every = [
        PauseChange("gift", NOON_US, "alarm", True, "too many"),
        PauseChange("gift", NOON_US + 2, "wang", False, ""),
        PauseChange("other", NOON_US + 4, "wang", True, "wrong price"),
    ]
    assert list(ledger.pause_changes(["gift", "other", "third"], 0, 9)) == every
    assert list(ledger.pause_changes(["gift", "other"], 0, 2)) == every[1:], "the newest"
    assert list(ledger.pause_changes(["gift"], NOON_US + 1, 9)) == every[1:2]
    assert list(ledger.pause_changes([], 0, 9)) == []
