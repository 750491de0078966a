"""What the documentation shows is true: links lead somewhere, and rulebases in it load and pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_rulebase import load
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import try_case

ROOT = Path(__file__).parents[2]
PACK = ROOT / "rulebase" / "packs" / "gprs-precision"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```yaml\n# ([\w./-]+\.yaml)(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """YAML blocks that begin with the name of their file: the name and the text."""
    yield from _BLOCK.findall(page.read_text(encoding="utf-8"))


def lines(text: str) -> set[str]:
    """Lines as they are, without comments."""
    return {line for each in text.splitlines() if (line := re.sub(r"(^|\s+)# .*", "", each).rstrip())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in _LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert broken == []


def test_the_rule_of_the_readme_stands_in_the_sample_rulebase() -> None:
    shown = list(blocks(ROOT / "README.md"))
    assert len(shown) == 4
    for name, text in shown:
        _, _, extract = text.partition("\n")
        assert lines(extract) <= lines((PACK / name).read_text(encoding="utf-8"))


def test_the_campaign_of_the_guide_loads_and_passes_its_tests() -> None:
    added = {
        name.removeprefix("my-rulebase/"): text.encode()
        for name, text in blocks(ROOT / "docs" / "guides" / "write-a-campaign.md")
    }
    assert len(added) == 2
    files = read_rulebase(PACK) | added
    rulebase = load(files)
    assert rulebase.warnings == ()
    engine = NetworkEngine(rulebase)
    results = [try_case(rulebase, engine, case) for case in read_cases(rulebase, files)]
    engine.close()
    assert [failure for result in results for failure in result.failures] == []
    assert {result.case.position.file for result in results} > added.keys() - {"campaigns/campus-chat.yaml"}
