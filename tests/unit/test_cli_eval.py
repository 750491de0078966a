"""`opportune eval`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opportune_service.cli import app
from support.town import write_town
from typer.testing import CliRunner, Result


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)], input=given)


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "values.json"
    path.write_text(json.dumps({"event": {"amount": 3}, "x": {"$double": "NaN"}, "name": "短信"}))
    return path


@pytest.mark.parametrize("via", ["network", "cel"])
@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("event.amount + 1", "4"),
        ("double(event.amount)", "3.0"),
        ("x", '"NaN"'),
        ("x == x", "false"),
        ("name + '!'", '"短信!"'),
        ("[event.amount, 2]", "[3,2]"),
        ("timestamp(0)", '"1970-01-01T00:00:00Z"'),
        ("duration('1.5s')", '"1.5s"'),
    ],
)
def test_the_value_is_one_line_of_json(values: Path, expression: str, printed: str, via: str) -> None:
    result = run(expression, "--bindings", values, "--via", via)

    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{printed}\n", "")


def test_without_bindings() -> None:
    assert run("1 + 1").stdout == "2\n"


def test_bindings_from_standard_input() -> None:
    assert run("x * 2", "--bindings", "-", given='{"x": 21}').stdout == "42\n"


def test_no_value_ends_with_1() -> None:
    result = run("1 / x", "--bindings", "-", given='{"x": 0}')

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: divide by zero\n")
    result = run("x", "--bindings", "-", "--json", given='{"x": null}')
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"error": "x is missing"})


def test_a_fault_of_the_expression_ends_with_2() -> None:
    result = run("1 <\n event.amuont", "--bindings", "-", given='{"event": {"amount": 1}}')

    assert result.exit_code == 2
    assert result.stderr == "error: 2:2: unknown name 'event.amuont': did you mean 'event.amount'?\n"
    result = run("1 +", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"].startswith("1:4: ")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold a JSON object"),
        ('{"x": 1, "x": 2}', "'x' is bound twice"),
        ('{"x": NaN}', 'write {"$double": "NaN"}'),
        ('{"x": {"$timestamp": 5}}', "'x': $timestamp"),
        ("[" * 100_000, "nested too deeply"),
        ('{"x": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_bad_bindings_end_with_2(given: str, says: str) -> None:
    result = run("true", "--bindings", "-", given=given)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: bindings: ")
    assert says in result.stderr


def test_a_file_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    result = run("true", "--bindings", tmp_path / "none.json")

    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


@pytest.mark.parametrize("via", ["network", "cel"])
def test_names_of_a_rulebase(tmp_path: Path, via: str) -> None:
    town = write_town(tmp_path / "town")

    def of_town(expression: str, given: str) -> Result:
        return run(expression, "--bindings", "-", "--rulebase", town, "--via", via, given=given)

    assert of_town("behaviour.busy_texter", '{"metric": {"texts_24h": 2}}').stdout == "true\n"
    assert of_town("behaviour.busy_texter", '{"behaviour.busy_texter": false}').stdout == "false\n"
    assert of_town("behaviour.busy_textr", "{}").exit_code == 2
    assert of_town("true", '{"behaviour.busy_textr": true}').exit_code == 2
    unknown = of_town("behaviour.busy_texter", "{}")
    assert unknown.exit_code == 1
    assert unknown.stderr == "error: behaviour.busy_texter is unknown: metric.texts_24h is missing\n"
