"""A rulebase directory with its tables and tests, small, but with all that a simulated province needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import dedent

from support.provinces import made_up_cells, made_up_tacs

_FILES = {
    "rulebase.yaml": "rulebase: town\nlabel: A small town\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events:
          sms_sent: {label: text sent, attributes: {peer: string}}
          mms_sent: {label: picture sent, attributes: {peer: string, size_kb: int, to_count: int}}
          call_made: {attributes: {peer: string, duration_s: {type: int, min: 0}, ringback_heard: bool}}
          cell_changed: {attributes: {cell: string, roaming: bool}}
          counter_visit: {label: at the counter, attributes: {topic: string}}
        subscriber: {age: int, brand: string}
        channels:
          sms: {label: text message, mode: automatic}
          counter: {label: counter, mode: manual}
        products:
          text-bundle: {label: 短信套餐, category: messaging}
          picture-bundle: {label: 彩信套餐, category: messaging, needs: terminal.mms}
          care-plan: {label: Care plan, category: care}
        places: {table: places.csv}
        terminals: {table: tac.csv, attributes: {mms: bool}}
        """,
    "behaviours.yaml": """\
        metrics:
          texts_24h: {label: texts today, count: sms_sent, last: 24h}
          pictures_30d: {count: mms_sent, days: 30}
        behaviours:
          busy_texter: {label: 常发短信, when: metric.texts_24h >= 2}
          sends_pictures: {label: sends pictures, when: metric.pictures_30d >= 1}
        """,
    "campaigns/texts.yaml": """\
        campaign: text-bundle-offer
        label: 短信套餐推荐
        product: text-bundle
        on: [sms_sent]
        when: behaviour.busy_texter
        mode: automatic
        channels: [sms]
        priority: 500
        content: {sms: "{{product.label}}: reply YES"}
        """,
    "campaigns/pictures.yaml": """\
        campaign: picture-bundle-offer
        label: Picture bundle
        product: picture-bundle
        on: [mms_sent]
        when: behaviour.sends_pictures
        mode: automatic
        channels: [sms]
        content: {sms: "{{product.label}}"}
        """,
    "campaigns/care.yaml": """\
        campaign: care-plan-at-counter
        label: Care plan at the counter
        product: care-plan
        on: [counter_visit]
        mode: manual
        channels: [counter]
        content: {counter: "Offer the care plan."}
        """,
    "policies.yaml": """\
        caps:
          daily: {label: one a day, limit: 1, period: day}
        cool_downs:
          refused: {after: [refused], for: 90d, scope: product}
        """,
    "tests/texts_test.yaml": """\
        now: 2026-11-20T12:00:00+08:00
        cases:
          - name: a busy texter is offered the bundle
            given: {metric.texts_24h: 1}
            events: [{type: sms_sent}]
            expect: [{campaign: text-bundle-offer, mode: automatic, channel: sms, content: 短信套餐}]
          - name: one text is not busy
            events: [{type: sms_sent}]
            expect: []
          - name: one contact a day
            given: {metric.texts_24h: 1}
            history: {contacts: [{campaign: picture-bundle-offer, before: 1h}]}
            events: [{type: sms_sent}]
            expect: [{campaign: text-bundle-offer, reason: capped}]
          - name: who refused is left alone
            given: {metric.texts_24h: 1}
            history: {outcomes: [{campaign: text-bundle-offer, outcome: refused, before: 30d}]}
            events: [{type: sms_sent}]
            expect: [{campaign: text-bundle-offer, reason: cooling_off}]
          - name: a handset that cannot show pictures
            given: {terminal.mms: false}
            events: [{type: mms_sent, size_kb: 20}]
            expect: [{campaign: picture-bundle-offer, reason: not_eligible}]
          - name: nobody knows this customer
            subscriber: {id: "8613800000009", known: false}
            given: {metric.texts_24h: 1}
            events: [{type: sms_sent}]
            expect: [{campaign: text-bundle-offer, reason: no_context}]
          - name: the second text makes busy
            events: [{type: sms_sent}, {type: sms_sent, at: 10m}]
            expect: [{campaign: text-bundle-offer}]
        """,
}


def town_files() -> dict[str, bytes]:
    """The files of the rulebase, its tests among them."""
    files = {name: dedent(text).encode() for name, text in _FILES.items()}
    cells = ((cell, p.name, p.label, ";".join(p.categories)) for cell, p in made_up_cells(1).items())
    files["places.csv"] = _table(("cell", "place", "label", "categories"), cells)
    files["tac.csv"] = _table(("tac", "mms"), ((tac, "true") for tac in made_up_tacs()))
    return files


def write_town(directory: Path) -> Path:
    """Write the rulebase to `directory`, which is made."""
    for name, content in town_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()
