"""What changes from one rulebase to another, by example: the sentence, the keys, the campaigns."""

from __future__ import annotations

from textwrap import dedent

import pytest
from opportune_rulebase import load
from opportune_rulebase.diff import Change, ChangeKind, diff, tables
from opportune_rulebase.diff import reach as reach_module

ALL = ("evening", "offer", "talk")


def base() -> dict[str, bytes]:
    """Two messages and a talk."""
    files = {
        "rulebase.yaml": "rulebase: shop\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              mms_sent: {attributes: {size_kb: {type: int, min: 0}}}
              sms_sent: {}
              counter_visit: {}
            subscriber: {age: int, brand: string, vip: bool, branch: string}
            channels:
              sms: {mode: automatic}
              wap: {mode: automatic}
              counter: {mode: manual}
            products:
              bundle: {label: 套餐, category: messaging}
              care: {label: Care, category: care}
            places: {table: places.csv}
            """,
        "places.csv": "cell,place,label,categories\nA,central,Central,station\nB,mall,Mall,shop\n",
        "behaviours.yaml": """\
            metrics:
              mms_30d: {count: mms_sent, days: 30}
            patterns:
              burst: {count: mms_sent, at_least: 6, within: 10m}
            facts:
              keen: {on: burst, for: 30d}
            behaviours:
              often: {label: 常发, when: metric.mms_30d >= 20}
            """,
        "scenes.yaml": """\
            scenes:
              evening: {when: now.getHours(zone) >= 19 && now.getHours(zone) < 22}
            """,
        "campaigns/all.yaml": """\
            campaign: offer
            label: 推荐
            product: bundle
            on: [mms_sent]
            when: behaviour.often
            target: sub.age >= 18
            mode: automatic
            channels: [sms]
            content: {sms: "{{product.label}} for you"}
            ---
            campaign: evening
            product: bundle
            on: [burst]
            when: scene.evening && "station" in place.categories
            mode: automatic
            channels: [sms, wap]
            content: {default: Hello}
            ---
            campaign: talk
            product: care
            on: [counter_visit]
            when: fact.keen
            mode: manual
            channels: [counter]
            content: {counter: Offer it}
            """,
        "policies.yaml": """\
            caps:
              weekly: {limit: 3, period: {rolling: 7d}, applies_to: {modes: [automatic]}}
            quiet_hours:
              night: {from: "21:00", to: "08:00", applies_to: {channels: [sms]}}
            suppress:
              minors: {when: sub.age < 18}
            """,
    }
    return {name: dedent(text).encode() for name, text in files.items()}


def changed(*edits: tuple[str, str, str]) -> tuple[Change, ...]:
    """The difference that edits make: (file, what stands there, what is to)."""
    before, after = base(), base()
    for path, old, new in edits:
        assert old.encode() in after[path], old
        after[path] = after[path].replace(old.encode(), new.encode(), 1)
    found = diff(load(before), load(after))
    check_mirror(found, diff(load(after), load(before)))
    return found


def check_mirror(there: tuple[Change, ...], back: tuple[Change, ...]) -> None:
    contrary = {
        ChangeKind.ADDED: ChangeKind.REMOVED,
        ChangeKind.REMOVED: ChangeKind.ADDED,
        ChangeKind.CHANGED: ChangeKind.CHANGED,
    }
    assert [(contrary[each.kind], each.element, each.name) for each in there] == [
        (each.kind, each.element, each.name) for each in back
    ]
    for one, other in zip(there, back, strict=True):
        assert one.affected_campaigns == other.affected_campaigns
        assert [(each.key, each.before, each.after) for each in one.keys] == [
            (each.key, each.after, each.before) for each in other.keys
        ]


def only(*edits: tuple[str, str, str]) -> Change:
    found = changed(*edits)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("edit", "summary"),
    [
        (
            ("campaigns/all.yaml", "target: sub.age >= 18", "target: sub.age >= 18 && !sub.vip"),
            "reaches fewer: target now also asks !sub.vip",
        ),
        (
            ("campaigns/all.yaml", "target: sub.age >= 18", "target: sub.age >= 21"),
            "reaches fewer: target asks sub.age >= 21 instead of sub.age >= 18",
        ),
        (
            ("campaigns/all.yaml", "target: sub.age >= 18", "target: sub.age >= 18 || sub.vip"),
            "reaches more: target now also lets in sub.vip",
        ),
        (
            ("campaigns/all.yaml", "target: sub.age >= 18\n", ""),
            "reaches more: target no longer asks sub.age >= 18",
        ),
        (
            ("campaigns/all.yaml", "target: sub.age >= 18", 'target: sub.brand == "gotone"'),
            'target asks sub.brand == "gotone" instead of sub.age >= 18',
        ),
        (
            (
                "campaigns/all.yaml",
                'when: scene.evening && "station" in place.categories',
                "when: scene.evening",
            ),
            'reaches more: when no longer asks "station" in place.categories',
        ),
        (
            ("campaigns/all.yaml", "on: [mms_sent]", "on: [mms_sent, sms_sent]"),
            "reaches more: on now also sms_sent",
        ),
        (
            ("campaigns/all.yaml", "channels: [sms, wap]", "channels: [sms]"),
            "reaches fewer: channels no longer wap",
        ),
        (
            ("campaigns/all.yaml", "channels: [sms, wap]", "channels: [wap, sms]"),
            "channels in another order: wap, sms instead of sms, wap",
        ),
        (
            ("campaigns/all.yaml", "product: care", "product: care\nquota: {per_day: 500}"),
            "allows fewer contacts: quota.per_day is now 500",
        ),
        (
            ("campaigns/all.yaml", "product: care", "product: care\nfresh_for: 1h\npriority: 400"),
            "gives way to more others: priority 400 instead of 500; "
            "reaches more: fresh_for 1h instead of 5m",
        ),
        (
            (
                "campaigns/all.yaml",
                "product: care",
                "product: care\nvalid: {from: 2026-11-01, to: 2026-11-30}",
            ),
            "begins later: valid.from is now 2026-11-01; ends earlier: valid.to is now 2026-11-30",
        ),
        (
            ("campaigns/all.yaml", "product: care", "product: care\nbranches: [gz]"),
            "reaches fewer: branches is now gz",
        ),
        (
            ("campaigns/all.yaml", "product: care", "product: care\ncontrol_group: 2.5%"),
            "holds more back to compare: control_group is now 2.5%",
        ),
        (
            ("campaigns/all.yaml", "{counter: Offer it}", "{counter: Offer it now}"),
            "says something else by counter",
        ),
        (
            ("campaigns/all.yaml", "label: 推荐", "label: 彩信推荐"),
            "is called '彩信推荐' instead of '推荐'",
        ),
        (
            ("behaviours.yaml", "metric.mms_30d >= 20", "metric.mms_30d >= 10"),
            "holds for more: when asks metric.mms_30d >= 10 instead of metric.mms_30d >= 20",
        ),
        (
            ("scenes.yaml", "now.getHours(zone) < 22", "now.getHours(zone) <= 22"),
            "holds for more: when asks now.getHours(zone) <= 22 instead of now.getHours(zone) < 22",
        ),
        (
            ("behaviours.yaml", "days: 30", "days: 60"),
            "looks back further: days 60 instead of 30; "
            "starts afresh: what was seen so far does not count for it",
        ),
        (
            ("policies.yaml", 'from: "21:00"', 'from: "22:00"'),
            "may be offered later in the evening: quiet hours begin 22:00 instead of 21:00",
        ),
        (
            ("policies.yaml", 'from: "21:00"', 'from: "20:30"'),
            "is offered less late in the evening: quiet hours begin 20:30 instead of 21:00",
        ),
        (
            ("policies.yaml", 'to: "08:00"', 'to: "07:00"'),
            "may be offered earlier in the morning: quiet hours end 07:00 instead of 08:00",
        ),
        (
            ("policies.yaml", 'to: "08:00"', 'to: "09:30"'),
            "is offered less early in the morning: quiet hours end 09:30 instead of 08:00",
        ),
        (("policies.yaml", "limit: 3", "limit: 2"), "allows fewer contacts: limit 2 instead of 3"),
        (
            (
                "policies.yaml",
                "applies_to: {modes: [automatic]}",
                "applies_to: {modes: [automatic, manual]}",
            ),
            "binds more contacts: applies_to.modes now also manual",
        ),
        (
            ("policies.yaml", "when: sub.age < 18", "when: sub.age < 16"),
            "leaves fewer alone: when asks sub.age < 16 instead of sub.age < 18",
        ),
        (
            ("policies.yaml", "when: sub.age < 18", "when: sub.age < 18 || sub.vip"),
            "leaves more alone: when now also lets in sub.vip",
        ),
        (
            ("policies.yaml", "suppress:", "consent: {channels: {wap: opt_in}}\nsuppress:"),
            "reaches fewer: absent opt_in",
        ),
        (
            ("policies.yaml", "suppress:", "cool_downs: {refused: {after: refused, for: 90d}}\nsuppress:"),
            "stays away more often: after refused, for 90d, scope product",
        ),
        (
            ("vocabulary.yaml", "wap: {mode: automatic}", "wap: {mode: automatic, per_day: 100}"),
            "carries less: per_day is now 100",
        ),
        (
            ("rulebase.yaml", "Asia/Shanghai", "Asia/Urumqi"),
            "time_zone Asia/Urumqi instead of Asia/Shanghai",
        ),
    ],
)
def test_a_change_reads_like_a_sentence(edit: tuple[str, str, str], summary: str) -> None:
    assert only(edit).summary == summary


def test_a_change_has_its_keys_as_they_are_written() -> None:
    change = only(("campaigns/all.yaml", "target: sub.age >= 18", "target:  'sub.age>=21'\nfresh_for: 90m"))
    assert (change.kind, change.element, change.name, change.label) == (
        "changed",
        "campaign",
        "offer",
        "推荐",
    )
    assert [(each.key, each.before, each.after) for each in change.keys] == [
        ("fresh_for", "5m", "90m"),
        ("target", "sub.age >= 18", "sub.age>=21"),
    ]
    assert change.affected_campaigns == ("offer",)


@pytest.mark.parametrize(
    ("edit", "element", "campaigns"),
    [
        (("behaviours.yaml", "metric.mms_30d >= 20", "metric.mms_30d >= 1"), "behaviour often", ("offer",)),
        (("behaviours.yaml", "days: 30", "days: 31"), "metric mms_30d", ("offer",)),
        # Through the pattern to a campaign, and through the fact that it tells to another.
        (("behaviours.yaml", "at_least: 6", "at_least: 5"), "pattern burst", ("evening", "talk")),
        (("scenes.yaml", "< 22", "< 21"), "scene evening", ("evening",)),
        (
            ("places.csv", "A,central,Central,station", "A,central,Central,mall"),
            "table places",
            ("evening",),
        ),
        (("vocabulary.yaml", "min: 0", "min: 1"), "event mms_sent", ("evening", "offer", "talk")),
        (("vocabulary.yaml", "age: int", "age: double"), "attribute sub.age", ALL),
        (("vocabulary.yaml", "category: care", "category: loyalty"), "product care", ("talk",)),
        (("vocabulary.yaml", "wap: {", "wap: {cost: 3, "), "channel wap", ("evening",)),
        (("policies.yaml", "limit: 3", "limit: 4"), "cap weekly", ("evening", "offer")),
        (("policies.yaml", '"21:00"', '"21:30"'), "quiet hours night", ("evening", "offer")),
        (("policies.yaml", "sub.age < 18", "sub.age < 16"), "suppression minors", ALL),
        (("policies.yaml", "suppress:", "fit: {care: {counter: AA}}\nsuppress:"), "fit care", ("talk",)),
        (("policies.yaml", "suppress:", "control: {share: 1%}\nsuppress:"), "policy control", ALL),
        (("rulebase.yaml", "Asia/Shanghai", "Asia/Urumqi"), "rulebase rulebase", ALL),
    ],
)
def test_a_change_names_the_campaigns_that_it_reaches(
    edit: tuple[str, str, str], element: str, campaigns: tuple[str, ...]
) -> None:
    edits = [edit]
    if edit[0] == "vocabulary.yaml" and "age: double" in edit[2]:
        edits += [("campaigns/all.yaml", "sub.age >= 18", "sub.age >= 18.0")]
        edits += [("policies.yaml", "sub.age < 18", "sub.age < 18.0")]
    change = next(each for each in changed(*edits) if f"{each.element} {each.name}" == element)
    assert change.affected_campaigns == campaigns


def test_the_way_to_the_campaigns_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without what leads on from a definition, nobody is named."""
    monkeypatch.setattr(reach_module, "graph", lambda _: type("Graph", (), {"edges": ()}))
    pattern, fact = changed(("behaviours.yaml", "at_least: 6", "at_least: 5"))
    assert pattern.affected_campaigns == fact.affected_campaigns == ()


def test_what_comes_and_goes() -> None:
    whole = base()["campaigns/all.yaml"].decode()
    talk = whole[whole.index("---\ncampaign: talk") :]
    gone = only(("campaigns/all.yaml", talk, ""))
    assert (gone.kind, gone.element, gone.name, gone.keys) == (ChangeKind.REMOVED, "campaign", "talk", ())
    assert gone.summary == "is gone: no longer offers care by counter on counter_visit"
    assert gone.affected_campaigns == ("talk",)
    new, changed_one = changed(
        ("behaviours.yaml", "behaviours:", "behaviours:\n  adult: {when: sub.age >= 18}"),
        ("campaigns/all.yaml", "target: sub.age >= 18", "target: behaviour.adult"),
    )[::-1]
    assert (new.kind, new.summary) == (ChangeKind.ADDED, "is new: when sub.age >= 18")
    assert new.affected_campaigns == ("offer",)
    assert changed_one.summary == "target asks behaviour.adult instead of sub.age >= 18"


def test_how_it_is_written_makes_no_difference() -> None:
    after = base()
    parts = after.pop("campaigns/all.yaml").decode().split("---\n")
    for number, part in enumerate(parts):
        lines = part.strip().splitlines()
        after[f"campaigns/z{9 - number}.yaml"] = b"# moved\n\n" + "\n".join(lines[::-1]).encode()
    after["behaviours.yaml"] = after["behaviours.yaml"].replace(
        b"when: metric.mms_30d >= 20", b"when: '(metric.mms_30d  >=  20) // so many'"
    )
    after["behaviours.yaml"] += after.pop("scenes.yaml").replace(
        b"now.getHours(zone) >= 19 && now.getHours(zone) < 22",
        b"now.getHours(zone) < 22 && (now.getHours(zone) >= 19)",
    )
    after["tests/new_test.yaml"] = b"cases: []\n"
    assert diff(load(base()), load(after)) == ()


def test_a_label_reaches_nobody_unless_it_is_sent() -> None:
    assert only(("behaviours.yaml", "常发", "常常发")).affected_campaigns == ()
    assert only(("campaigns/all.yaml", "推荐", "彩信推荐")).affected_campaigns == ("offer",)
    campaign, product = changed(("vocabulary.yaml", "套餐", "大套餐"))
    assert (product.element, product.affected_campaigns) == ("product", ())
    assert (campaign.element, campaign.name) == ("campaign", "offer")
    assert [(each.key, each.before, each.after) for each in campaign.keys] == [
        ("content.sms", "套餐 for you", "大套餐 for you")
    ]


def test_what_is_made_of_a_changed_definition_starts_afresh_with_it() -> None:
    pattern, fact = changed(("behaviours.yaml", "at_least: 6", "at_least: 5"))
    assert pattern.summary == (
        "happens more often: at_least 5 instead of 6; "
        "starts afresh: what was seen so far does not count for it"
    )
    assert (fact.element, fact.name, fact.keys) == ("fact", "keen", ())
    assert fact.summary.startswith("starts afresh, because of what it is made of")
    assert fact.affected_campaigns == ("talk",)


def test_a_large_table_is_counted_and_sampled() -> None:
    rows = "".join(f"C{n},p{n},P{n},shop\n" for n in range(50_000))
    change = only(("places.csv", "B,mall,Mall,shop\n", rows))
    assert change.summary == "50001 rows instead of 2: 50000 added, 1 removed"
    assert len(change.keys) == tables.MOST_ROWS
    assert [(each.key, each.before, each.after) for each in change.keys][:2] == [
        ("B", "mall (Mall): shop", ""),
        ("C0", "", "p0 (P0): shop"),
    ]


def test_a_matrix_is_part_of_what_its_campaigns_ask() -> None:
    before, after = base(), base()
    for files, cells in ((before, "{mms_sent: offer}"), (after, "{mms_sent: offer, sms_sent: offer}")):
        files["campaigns/all.yaml"] = files["campaigns/all.yaml"].replace(
            b"on: [mms_sent]\nwhen: behaviour.often\n", b""
        )
        files["matrix.yaml"] = f"columns: [mms_sent, sms_sent]\nrows: {{often: {cells}}}\n".encode()
    (change,) = diff(load(before), load(after))
    assert change.name == "offer"
    assert "on now also sms_sent" in change.summary


def test_templates_are_named_by_the_campaigns_that_are_like_them() -> None:
    before, after = base(), base()
    for files, priority in ((before, 500), (after, 600)):
        files["campaigns/all.yaml"] = files["campaigns/all.yaml"].replace(
            b"mode: automatic\n", b"like: message\n"
        )
        files["campaigns/templates.yaml"] = (
            f"template: message\nmode: automatic\npriority: {priority}\n".encode()
        )
    found = diff(load(before), load(after))
    assert [(each.name, each.summary) for each in found] == [
        ("evening", "goes before more others: priority 600 instead of 500"),
        ("offer", "goes before more others: priority 600 instead of 500"),
    ]
