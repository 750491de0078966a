"""The table of metrics is made from the code; run with OPPORTUNE_UPDATE_GOLDEN=1 to write it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from opportune_service.adapters.metrics.catalogue import FIGURES
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "operations.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
_TABLE = re.compile(
    r"(?<=<!-- metrics: made from the code, a test compares -->\n).*(?=<!-- end of metrics)", re.DOTALL
)


def table() -> str:
    rows = ["| metric | kind | labels | meaning |\n|---|---|---|---|\n"]
    for each in FIGURES:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} |\n")
    return "".join(rows)


def test_the_table_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    [found] = _TABLE.findall(page)
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        PAGE.write_text(_TABLE.sub(lambda _: table(), page), encoding="utf-8")
        return
    assert found == table(), "the metrics changed; see the top of this file"


def test_whatever_the_page_calls_a_metric_is_one() -> None:
    known = {name for each in FIGURES for name in (each.name, *each.series)}
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:opportune|grpc_server)_[a-z_]+[a-z]\b(?!\.)", page))
    families = {"opportune_deliveries", "opportune_lease"}
    assert named - known <= families | {"opportune_service"}


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    rules = YAML(typ="safe").load(ALERTS)["groups"][0]["rules"]
    sections = re.findall(r"^### (Opportune\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules]
    for rule in rules:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / path, anchor) == (PAGE, rule["alert"].lower())
