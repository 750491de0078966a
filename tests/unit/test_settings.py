"""Settings: where they come from, what is refused, and that nobody reads a password in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opportune_service.cli import app
from opportune_service.settings import Settings, effective, shown
from pydantic import ValidationError
from typer.testing import CliRunner, Result

SECRET = "s3cr/t@x"  # noqa: S105 - nobody's


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no file of settings is, until a test writes one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["settings", *arguments])


def test_options_win_over_the_environment_and_that_over_the_file(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "opportune.toml").write_text("drain_seconds = 1\nlease_seconds = 2\ntimer_seconds = 3\n")
    monkeypatch.setenv("OPPORTUNE_LEASE_SECONDS", "20")
    monkeypatch.setenv("OPPORTUNE_TIMER_SECONDS", "30")
    options: dict[str, Any] = {"timer_seconds": 300}
    settings = Settings(**options)
    found = {each.name: (each.value, each.origin) for each in effective(settings, options)}
    assert found["drain_seconds"] == ("1.0", "opportune.toml")
    assert found["lease_seconds"] == ("20.0", "OPPORTUNE_LEASE_SECONDS")
    assert found["timer_seconds"] == ("300.0", "command line")
    assert found["checkpoint_seconds"] == ("30.0", "default")
    assert set(found) == set(Settings.model_fields)


def test_the_file_may_be_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "opportune.toml").write_text("drain_seconds = 1\n")
    (alone / "other.toml").write_text("drain_seconds = 2\n")
    (alone / "third.toml").write_text("drain_seconds = 3\n")
    assert Settings().drain_seconds == 1
    monkeypatch.setenv("OPPORTUNE_CONFIG", "other.toml")
    assert Settings().drain_seconds == 2
    assert Settings(config=alone / "third.toml").drain_seconds == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lisen = 'x'", "There is no setting lisen (OPPORTUNE_LISEN): did you mean listen?"),
        ("zzz = 1", "'opportune settings' lists those that there are"),
        ("drain_seconds = 'soon'", "The setting drain_seconds (OPPORTUNE_DRAIN_SECONDS) is wrong"),
        ("drain_seconds = -1", "greater than or equal to 0"),
        ("drain_seconds = ", "bad.toml is not TOML"),
        ("config = 'x'", "names a file of settings itself"),
        ("\udcff", "bad.toml is not TOML"),
    ],
)
def test_a_file_that_will_not_do_is_refused_with_what_to_do(alone: Path, text: str, words: str) -> None:
    (alone / "bad.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    said = run("--config", "bad.toml")
    assert said.exit_code == 2
    assert words in said.output.replace("\n", " ")


def test_a_file_that_is_named_must_be_there() -> None:
    said = run("--config", "none.toml")
    assert (said.exit_code, "there is no file none.toml" in said.output) == (2, True)


def test_an_unknown_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPPORTUNE_DATABSE", f"postgresql://u:{SECRET}@h/db")
    said = run()
    assert said.exit_code == 2
    assert "There is no setting databse (OPPORTUNE_DATABSE): did you mean database?" in said.output
    assert SECRET not in said.output


@pytest.mark.parametrize(
    "name",
    [
        "OPPORTUNE_PORT",
        "OPPORTUNE_PORT_50051_TCP_ADDR",
        "OPPORTUNE_SERVICE_HOST",
        "OPPORTUNE_GRPC_SERVICE_PORT_METRICS",
        "OPPORTUNE_TARGET",
        "OPPORTUNE_SMPP_PASSWORD",
        "OPPORTUNE_CA",
        "OPPORTUNE_CERTIFICATE",
        "OPPORTUNE_KEY",
        "OPPORTUNE_TOKEN_FILE",
    ],
)
def test_names_that_others_put_there_are_let_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:50051")
    assert run().exit_code == 0


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@host/db",
        f"redis://:{SECRET}@host:6379/0",
        f"postgresql://host/db?user=u&password={SECRET}&sslmode=require",
    ],
)
def test_passwords_are_never_shown(url: str) -> None:
    settings = Settings(database=url, live_state=url)
    assert settings.database == url  # the control: it is there
    for text in (repr(settings), str(settings), shown(url), repr(effective(settings, {}))):
        assert SECRET not in text
        assert "***" in text
    assert "host" in shown(url)


def test_no_error_quotes_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPPORTUNE_DRAIN_SECONDS", SECRET)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert SECRET not in str(caught.value)
    assert SECRET not in run().output


def test_the_command_shows_values_and_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPPORTUNE_DATABASE", f"postgresql://u:{SECRET}@host/db")
    said = run("--json")
    assert said.exit_code == 0
    found = json.loads(said.output)
    assert found["database"] == {
        "value": "postgresql://u:***@host/db",
        "origin": "OPPORTUNE_DATABASE",
    }
    assert list(found) == list(Settings.model_fields)
    table = run().output
    assert SECRET not in table
    assert all(name in table for name in Settings.model_fields)
