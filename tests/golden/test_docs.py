"""What the documentation shows is true: links lead somewhere, and rulebases in it load and pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_rulebase import RulebaseError, load
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.coverage import coverage
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import try_case
from opportune_service.cli.problems import problem_text
from support.commands import opportune

ROOT = Path(__file__).parents[2]
PACK = ROOT / "rulebase" / "packs" / "gprs-precision"
GUIDE = ROOT / "docs" / "guides" / "write-a-campaign.md"
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
    assert len(shown) == 6
    for name, text in shown:
        _, _, extract = text.partition("\n")
        assert lines(extract) <= lines((PACK / name).read_text(encoding="utf-8"))


def test_the_readme_counts_the_campaigns() -> None:
    count = len(load(read_rulebase(PACK)).campaigns)
    assert f" {count} campaigns" in (ROOT / "README.md").read_text(encoding="utf-8")


def guide_files() -> dict[str, bytes]:
    """The sample rulebase with what the guide adds to it."""
    files = read_rulebase(PACK)
    for name, text in blocks(GUIDE):
        path = name.removeprefix("my-rulebase/")
        note, _, rest = text.partition("\n")
        if "to be added at the end" in note:
            files[path] += rest.encode()
        elif section := re.search(r"to be added under `(\w+)`", note):
            heading = f"\n{section[1]}:\n".encode()
            assert files[path].count(heading) == 1
            files[path] = files[path].replace(heading, heading + rest.encode())
        else:
            assert path not in files
            files[path] = text.encode()
    return files


def test_the_campaigns_of_the_guide_load_and_pass_their_tests() -> None:
    files = guide_files()
    rulebase = load(files)
    assert rulebase.warnings == ()
    assert {"campus-chat", "undecided-coupon"} <= rulebase.campaigns.keys()
    engine = NetworkEngine(rulebase)
    results = [try_case(rulebase, engine, case) for case in read_cases(rulebase, files)]
    engine.close()
    assert [failure for result in results for failure in result.failures] == []
    covered = coverage(rulebase, [result.seen for result in results])
    assert covered.percent == 100, "the guide tells readers to keep it so"
    tested = {result.case.position.file for result in results}
    assert tested >= {"tests/campus_test.yaml", "tests/undecided_test.yaml"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sub.age <=", "sub.aged <="),
        ("on: data_session", "on: sms_sent"),
        ('event.category == "social"', 'event.category == "chat"'),
    ],
)
def test_check_says_of_mistakes_what_the_guide_shows(right: str, wrong: str) -> None:
    name = "campaigns/campus-chat.yaml"
    files = guide_files()
    text = files[name].decode()
    assert text.count(right) == 1
    files[name] = f"# {name}{text}".replace(right, wrong).encode()
    try:
        problems = list(load(files).warnings)
    except RulebaseError as error:
        problems = list(error.problems)
    assert len(problems) == 1
    assert f"```text\n{problem_text(problems[0])}\n```" in GUIDE.read_text(encoding="utf-8")


def test_the_condition_of_the_guide_has_the_value_that_it_says(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    [bindings] = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [condition] = re.findall(r"^opportune eval '([^']+)'", text, re.MULTILINE)
    for hour, value in (("19:30", "true"), ("22:30", "false")):
        (tmp_path / "evening.json").write_text(bindings.replace("19:30", hour), encoding="utf-8")
        run = opportune("eval", condition, "--rulebase", PACK, "--bindings", "evening.json", cwd=tmp_path)
        assert (run.returncode, run.stdout.strip()) == (0, value), run.stderr
