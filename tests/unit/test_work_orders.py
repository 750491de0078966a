"""Work orders: what the planning system calls its scenes, and what becomes of an order."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase import Problem, Severity, load, revision_of
from opportune_rulebase.diff import diff
from opportune_rulebase.work_orders import DOCUMENT, WorkOrderDraft, apply_work_order, unbound_names
from support.small_rulebase import small_rulebase

SCENES = """\
scenes:
  idle_evening: {when: now.getHours(zone) >= 19}
  calm: {when: sub.age > 3}
"""
BASE = small_rulebase() | {"scenes.yaml": SCENES.encode()}
ORDER = dedent(
    """\
    # as it came
    campaign: evening-mms
    label: 晚间彩信
    product: mms-bundle
    on: [mms_sent]
    when: ${闲时} && !${Scene 12/calm}  // ours
    mode: automatic
    channels: [sms]
    content: {sms: "Only ${5} today"}
    """
)
WHEN = "${闲时} && !${Scene 12/calm}  // ours"
BINDINGS = {"闲时": "scene.idle_evening", "Scene 12/calm": "scene.calm"}
PATH = "campaigns/order-2026-11-7.yaml"


def order(document: str = ORDER, **rest: object) -> WorkOrderDraft:
    given: dict[str, object] = {"base": BASE, "order_id": "2026-11-7", "bindings": BINDINGS} | rest
    return apply_work_order(given["base"], given["order_id"], document, given["bindings"])  # type: ignore[arg-type]


def errors(draft: WorkOrderDraft) -> list[Problem]:
    return [each for each in draft.problems if each.severity is Severity.ERROR]


def only_error(draft: WorkOrderDraft) -> Problem:
    assert len(errors(draft)) == 1, draft.problems
    assert draft.rulebase is None
    return errors(draft)[0]


def test_a_bound_order_is_one_campaign_more() -> None:
    draft = order()
    assert errors(draft) == []
    assert (draft.campaign, draft.unbound) == ("evening-mms", ())
    assert draft.files.keys() - BASE.keys() == {PATH}
    assert all(draft.files[path] == BASE[path] for path in BASE)
    assert draft.rulebase is not None
    assert draft.rulebase.revision == revision_of(draft.files)
    campaign = draft.rulebase.campaigns["evening-mms"]
    assert campaign.when is not None
    assert campaign.when.reads == {"scene.idle_evening", "scene.calm"}
    assert campaign.content["sms"].text == "Only ${5} today"
    (change,) = [each for each in diff(load(BASE), draft.rulebase) if each.element == "campaign"]
    assert (change.kind, change.name) == ("added", "evening-mms")


def test_the_file_says_where_it_comes_from_and_keeps_what_was_written() -> None:
    text = order().files[PATH].decode()
    when = "${闲时} && !${Scene 12/calm}"
    assert text == (
        "# Work order 2026-11-7\n"
        "# Scene 12/calm is scene.calm here.\n"
        "# 闲时 is scene.idle_evening here.\n" + ORDER.replace(when, "scene.idle_evening && !scene.calm")
    )


def test_the_same_order_is_the_same_revision() -> None:
    first = order()
    assert order(bindings=dict(reversed(BINDINGS.items())) | {"unused": "scene.calm"}).files == first.files
    again = order(base=first.files)
    assert again.files == first.files
    assert revision_of(again.files) == revision_of(first.files)


def test_a_later_word_of_an_order_takes_the_place_of_the_earlier() -> None:
    later = order(ORDER.replace("label: 晚间彩信", "label: 另一个"), base=order().files)
    assert errors(later) == []
    assert later.files.keys() == order().files.keys()
    assert later.rulebase is not None
    assert later.rulebase.campaigns["evening-mms"].label == "另一个"


def test_a_campaign_from_elsewhere_is_not_replaced() -> None:
    problem = only_error(order(ORDER.replace("evening-mms", "mms-bundle")))
    assert (problem.code, problem.position.file) == ("duplicate-name", DOCUMENT)
    assert "campaigns/mms-bundle.yaml" in problem.hint + problem.message
    other = only_error(order(base=order(order_id="another").files))
    assert other.code == "duplicate-name"
    mine = {**BASE, PATH: b"campaign: by-hand\n"}
    assert only_error(order(base=mine)).message == f"the base has a file {PATH} that is not of this order"


def test_names_that_stay_unbound_make_a_draft() -> None:
    draft = order(bindings={"闲时": "scene.idle_evening"})
    assert (errors(draft), draft.unbound, draft.rulebase) == ([], ("Scene 12/calm",), None)
    assert b"when: scene.idle_evening && !${Scene 12/calm}" in draft.files[PATH]
    assert unbound_names(draft.files) == draft.unbound
    assert unbound_names(order().files) == unbound_names(BASE) == ()
    # And the same order with the rest of its bindings is what it would have been at once.
    assert order(base=draft.files).files == order().files


def test_the_rest_of_a_draft_is_checked() -> None:
    draft = order(ORDER.replace("product: mms-bundle", "product: mms-bundl"), bindings={})
    problem = only_error(draft)
    assert (problem.code, str(problem.position)) == ("unknown-name", f"{DOCUMENT}:4:10")
    assert problem.snippet == "product: mms-bundl"
    assert draft.unbound == ("Scene 12/calm", "闲时")


def test_an_event_type_may_have_another_name_too() -> None:
    document = ORDER.replace("on: [mms_sent]", 'on: ["${发彩信}"]')
    unbound = order(document)
    assert (unbound.unbound, errors(unbound)) == (("发彩信",), [])
    bound = order(document, bindings=BINDINGS | {"发彩信": "mms_sent"})
    assert bound.rulebase is not None
    assert bound.rulebase.campaigns["evening-mms"].on == ("mms_sent",)


@pytest.mark.parametrize(
    ("old", "new", "code", "place"),
    [
        # Behind a name that was put in, places are those of the document.
        ("// ours", "&& sub.agee > 3", "bad-expression", "6:38"),
        ("${闲时} &&", "sub.agee > 3 && ${闲时} &&", "bad-expression", "6:7"),
        ("mode: automatic", "mode: automatik", "unknown-name", "7:7"),
        ("label: 晚间彩信", "lable: 晚间彩信", "unknown-key", "3:1"),
        ("${闲时}", "${闲\n  时}", "bad-name", "6:7"),
        ("${闲时}", f"${{{'x' * 65}}}", "bad-name", "6:7"),
        ("${闲时}", "${}", "bad-name", "6:7"),
    ],
)
def test_problems_are_placed_in_the_document(old: str, new: str, code: str, place: str) -> None:
    draft = order(ORDER.replace(old, new))
    problem = errors(draft)[0]
    assert (problem.code, str(problem.position)) == (code, f"{DOCUMENT}:{place}")


@pytest.mark.parametrize(
    "bound",
    ["scene.nothing", "scene.idle evening", "true || true", "fact.x", "", "metric.mms_30d", "x" * 65],
)
def test_a_name_is_bound_to_a_scene_or_a_behaviour(bound: str) -> None:
    draft = order(bindings=BINDINGS | {"闲时": bound})
    assert errors(draft)
    assert draft.rulebase is None


@pytest.mark.parametrize("order_id", ["", "x" * 65, "a\nb: c", " a", "\u2028", "a\x00"])
def test_a_number_that_cannot_be_written_down_is_refused(order_id: str) -> None:
    draft = order(order_id=order_id)
    assert draft.files == {}
    assert only_error(draft).code == "bad-name"


@pytest.mark.parametrize("order_id", ["营[2014]12号", "../../etc/passwd", "A-7", "con.yaml", "x" * 64])
def test_any_number_gives_a_plain_path_of_its_own(order_id: str) -> None:
    draft = order(order_id=order_id)
    assert errors(draft) == []
    (path,) = draft.files.keys() - BASE.keys()
    assert path.startswith("campaigns/order-")
    assert path.isascii()
    assert path.count("/") == 1
    assert order(order_id=order_id, base=draft.files).files == draft.files


def test_numbers_that_look_alike_do_not_meet() -> None:
    numbers = ("A/7", "a-7", "A-7", "a 7")
    assert len({path for each in numbers for path in order(order_id=each).files.keys() - BASE.keys()}) == 4


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("", "wrong-type"),
        ("- a\n", "wrong-type"),
        (f"{ORDER}---\n{ORDER}", "wrong-type"),
        ("template: x\nmode: automatic\n", "missing-key"),
        ("campaign: [a]\n", "missing-key"),
        ("campaign: &a x\nlabel: *a\n", "alias"),
        ("campaign: !!python/object:os.system x\n", "tag"),
        ("campaign: a\ncampaign: b\n", "duplicate-key"),
        ("campaign: {a: [\n", "bad-yaml"),
        (f"campaign: {'[' * 40}{']' * 40}\n", "too-deep"),
        ("campaign: a\n" + "x" * (1 << 19), "too-large"),
        ("campaign: a\nlabel: \x00\n", "bad-yaml"),
        ("campaign: a\nlabel: \ud800\n", "not-utf8"),
        (ORDER.replace("闲时", "x\u202ex"), "bad-name"),
    ],
)
def test_hostile_documents_are_refused(document: str, code: str) -> None:
    draft = order(document)
    assert draft.files == {}
    assert code in {each.code for each in errors(draft)}
    assert all(each.position.file == DOCUMENT for each in draft.problems)


def test_a_comment_cannot_be_left() -> None:
    """What an order calls its scenes stands in the comment above it: it cannot begin a line of its own."""
    name = "y: # &a *b !c --- campaign: x"
    document = ORDER.replace(WHEN, f"'${{{name}}}'")
    draft = order(document, bindings={name: "scene.calm", "\ncampaign: x": "scene.calm"})
    assert errors(draft) == []
    head = draft.files[PATH].decode().partition("# as it came")[0]
    assert head == f"# Work order 2026-11-7\n# {name} is scene.calm here.\n"


@settings(max_examples=200, deadline=None)
@given(
    name=st.text(st.characters(exclude_characters="}"), min_size=1, max_size=12),
    quoted=st.booleans(),
    again=st.integers(0, 3),
)
def test_whatever_a_name_is_it_is_bound_or_refused(name: str, quoted: bool, again: int) -> None:
    where = " && ".join([f"${{{name}}}"] * (again + 1))
    written = "'" + where.replace("'", "''") + "'" if quoted else where
    draft = order(ORDER.replace(WHEN, written), bindings={})
    if errors(draft):
        return
    assert draft.unbound in ((name.strip(),), ())
    bound = order(
        ORDER.replace(WHEN, written),
        bindings={name.strip(): "scene.calm"},
    )
    if draft.unbound:
        assert bound.rulebase is not None
        when = bound.rulebase.campaigns["evening-mms"].when
        assert when is not None
        assert when.reads == {"scene.calm"}
        assert unbound_names(draft.files) == draft.unbound


@settings(max_examples=100, deadline=None)
@given(document=st.text(max_size=200), order_id=st.text(max_size=70), name=st.text(max_size=20))
def test_nothing_raises(document: str, order_id: str, name: str) -> None:
    draft = apply_work_order(BASE, order_id, document, {name: name})
    assert draft.rulebase is None
    assert draft.problems


def test_line_breaks_of_other_systems_stay() -> None:
    draft = order(ORDER.replace("\n", "\r\n"))
    assert errors(draft) == []
    assert b"when: scene.idle_evening && !scene.calm  // ours\r\n" in draft.files[PATH]
