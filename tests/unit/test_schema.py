"""JSON Schema of the language: what is shipped is what is made, and the sample rulebase keeps to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import jsonschema
import pytest
from opportune_rulebase.language import FILES, SECTIONS
from opportune_rulebase.loading.metrics import _KINDS as METRIC_KINDS
from opportune_rulebase.loading.patterns import _KEYS as PATTERN_KEYS
from opportune_rulebase.schema import schema_name, schema_text, schemas
from ruamel.yaml import YAML
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PACK = ROOT / "rulebase/packs/gprs-precision"
SHIPPED = ROOT / "rulebase/schema"


def files_of(path: str) -> list[Path]:
    return sorted(PACK.glob(path))


def as_text(value: object) -> object:
    """Dates come as dates from this reader; a schema knows text."""
    if isinstance(value, dict):
        return {str(key): as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_text(each) for each in value]
    return str(value) if isinstance(value, date) else value


def errors(name: str, document: object) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schemas()[name]).iter_errors(document):
        yield error.message


def test_what_is_shipped_is_what_is_made() -> None:
    shipped = {path.name: path.read_text(encoding="utf-8") for path in SHIPPED.iterdir()}
    assert shipped == {name: schema_text(schema) for name, schema in schemas().items()}, (
        "run: opportune schema --out rulebase/schema"
    )


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])


@pytest.mark.parametrize("path", FILES)
def test_the_sample_rulebase_keeps_to_it(path: str) -> None:
    yaml = YAML(typ="safe")
    yaml.version = (1, 2)
    for file in files_of(path):
        for document in yaml.load_all(file):
            assert list(errors(schema_name(path), as_text(document))) == []


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("rulebase.yaml", {"rulebase": "a", "time_zone": "UTC", "timezone": "UTC"}),
        ("rulebase.yaml", {"rulebase": "a"}),
        ("vocabulary.yaml", {"channels": {"sms": {"mode": "auto"}}}),
        ("behaviours.yaml", {"metrics": {"m": {"count": "e", "days": 401}}}),
        ("policies.yaml", {"caps": {"c": {"limit": -1, "period": "day"}}}),
        ("campaigns/*.yaml", {"campaign": "a", "product": "p"}),
        ("campaigns/*.yaml", {"template": "t", "prio": 5}),
    ],
)
def test_plain_mistakes_are_seen(path: str, document: object) -> None:
    assert list(errors(schema_name(path), document)) != []


def test_a_campaign_may_leave_to_its_template_what_it_needs() -> None:
    assert list(errors("campaigns.schema.json", {"campaign": "a", "like": "t"})) == []
    assert list(errors("campaigns.schema.json", {"template": "t", "mode": "automatic"})) == []


def test_every_key_has_words_for_people() -> None:
    assert [
        (section, name) for section, keys in SECTIONS.items() for name, key in keys.items() if not key.text
    ] == []


def test_the_command_prints_one_and_writes_all(tmp_path: Path) -> None:
    from opportune_service.cli import app

    printed = CliRunner().invoke(app, ["schema", "campaigns/mms.yaml"])
    assert printed.stdout == schema_text(schemas()["campaigns.schema.json"])
    assert CliRunner().invoke(app, ["schema", "--out", str(tmp_path)]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == set(schemas())
    assert CliRunner().invoke(app, ["schema", "nothing.yaml"]).exit_code == 2


def test_loading_knows_the_same_keys_of_metrics_and_patterns() -> None:
    """The others are read by the list itself; of these each kind has its own."""
    patterns = {"label", *PATTERN_KEYS, *(key for keys in PATTERN_KEYS.values() for key in keys)}
    assert patterns == set(SECTIONS["pattern"])
    assert {*METRIC_KINDS, "of", "days", "last", "where", "label"} == set(SECTIONS["metric"])


def test_the_reference_has_every_key() -> None:
    pages = [ROOT / "docs/reference" / name for name in ("rulebase.md", "cli.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    missing = [
        f"{section}.{key}"
        for section, keys in SECTIONS.items()
        for key in keys
        if not re.search(rf"(?m)(?:^|[`{{, (]){key}[`,:}}]", text)
    ]
    assert missing == []
