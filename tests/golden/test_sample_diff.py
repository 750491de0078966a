"""What a week of edits of the sample rulebase reads like: `opportune diff`, word for word.

Run with OPPORTUNE_UPDATE_GOLDEN=1 to write the expectation anew, then read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli import app
from typer.testing import CliRunner, Result

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
GOLDEN = Path(__file__).with_name("sample_diff.expected")

NEW = "  texts_at_night: {label: 夜间短信 · texts at night, when: metric.sms_sent_24h >= 10}"
EDITS = (
    # A habit counts as one earlier.
    ("behaviours.yaml", "metric.mms_30d >= 20", "metric.mms_30d >= 15"),
    # A pattern asks for less, and so starts afresh.
    ("behaviours.yaml", "at_least: 6, within: 10m", "at_least: 5, within: 10m"),
    # A new habit that a campaign leaves alone.
    ("behaviours.yaml", "  points_expire:", f"{NEW}\n  points_expire:"),
    ("campaigns/points.yaml", "when: ", "when: '!behaviour.texts_at_night && ("),
    ("policies.yaml", 'from: "21:30"', 'from: "22:00"'),
    ("policies.yaml", "    limit: 3\n", "    limit: 2\n"),
    (
        "policies.yaml",
        "cool_downs:\n",
        "cool_downs:\n  asked: {after: [inquired], for: 1d, scope: any}\n",
    ),
    ("vocabulary.yaml", "per_day: ", "per_day: 1"),
    # A template: said once for all campaigns that are like it.
    ("campaigns/templates.yaml", "expires_after: ", "expires_after: 1"),
    ("places.csv", "Binhai airport,airport", "Binhai airport,hotel"),
)


def _edited(directory: Path) -> Path:
    for path, content in read_rulebase(PACK).items():
        text = content.decode()
        for file, old, new in EDITS:
            if file == path:
                assert old in text, (file, old)
                text = text.replace(old, new, 1)
                if new.endswith("("):
                    begin = text.index(new) + len(new)
                    end = text.index("\n", begin)
                    text = f"{text[:end]})'{text[end:]}"
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")
    return directory


def _diff(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _edited(tmp_path_factory.mktemp("edited"))


def test_it_reads_as_it_did(edited: Path) -> None:
    result = _diff(PACK, edited)
    assert result.exit_code == 0, result.output
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        GOLDEN.write_text(result.stdout, encoding="utf-8")
    assert result.stdout == GOLDEN.read_text(encoding="utf-8")


def test_programs_are_told_the_same(edited: Path) -> None:
    result = _diff(PACK, edited, "--json")
    told = json.loads(result.stdout)
    shown = GOLDEN.read_text(encoding="utf-8")
    assert all(each["summary"] in shown for each in told)
    assert all(
        f" {each['element']} {each['name']}" in shown for each in told if each["element"] != "campaign"
    )
    assert shown.splitlines()[-1].startswith(f"{sum(each['kind'] == 'added' for each in told)} added")


def test_nothing_changes_to_itself() -> None:
    assert _diff(PACK, PACK).stdout == "nothing changes\n"


def test_it_says_which_of_the_two_has_errors(edited: Path, tmp_path: Path) -> None:
    broken = _edited(tmp_path)
    (broken / "policies.yaml").write_text("capz: {}\n", encoding="utf-8")
    result = _diff(edited, broken)
    assert result.exit_code == 1
    assert f"{broken} has errors" in result.stderr
