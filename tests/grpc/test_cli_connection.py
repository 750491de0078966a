"""Commands over TLS: what they show of who calls comes from files that the environment names."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from opportune_service.adapters.files.callers import read_callers
from opportune_service.app.access import new_token, token_hash
from support.callers import caller, token_line, write_callers
from support.commands import opportune
from support.server import Service, in_loop, running_service
from support.tls import Authority

PAUSE = ("pause", "mms-bundle", "--reason", "wrong price", "--json")
QUARANTINE = ("quarantine", "--json")
VARIABLES = ("CA", "CERTIFICATE", "KEY", "TOKEN_FILE", "TARGET")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"OPPORTUNE_{name}", raising=False)


def test_commands_show_tokens_and_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @in_loop
    async def body() -> None:
        authority, token = Authority(tmp_path), new_token()
        server, token_file = authority.sign("server"), tmp_path / "zhang.token"
        path = write_callers(
            tmp_path / "callers.yaml",
            [
                caller("zhang", "operator", tokens=[token_line(token)]),
                caller("li", "analyst", certificates=["li"]),
            ],
        )
        tls = {"tls_certificate": server.certificate, "tls_key": server.key, "callers": path}

        async def run(service: Service, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
            monkeypatch.setenv("OPPORTUNE_TARGET", service.address)
            return await asyncio.to_thread(opportune, *arguments, cwd=tmp_path)

        monkeypatch.setenv("OPPORTUNE_CA", str(authority.certificate))
        async with running_service(**tls) as service:
            assert (await run(service, ("health",))).returncode == 0, "open to everybody"
            nobody = await run(service, PAUSE)
            assert nobody.returncode == 1
            assert "say who calls" in nobody.stderr
            assert "Set OPPORTUNE_TOKEN_FILE, or OPPORTUNE_CERTIFICATE and OPPORTUNE_KEY" in nobody.stderr
            token_file.write_text(f"{token}\n")
            monkeypatch.setenv("OPPORTUNE_TOKEN_FILE", str(token_file))
            done = await run(service, PAUSE)
            assert done.returncode == 0, done.stderr
            assert (await service.app.pauses.paused())["mms-bundle"].by == "zhang"
            no_role = await run(service, ("consent", "8613800000001", "all", "refused"))
            assert no_role.returncode != 0
            assert token not in done.stdout + done.stderr + no_role.stdout + no_role.stderr
        monkeypatch.delenv("OPPORTUNE_TOKEN_FILE")
        own = authority.sign("li")
        monkeypatch.setenv("OPPORTUNE_CERTIFICATE", str(own.certificate))
        monkeypatch.setenv("OPPORTUNE_KEY", str(own.key))
        async with running_service(**tls, tls_client_ca=authority.certificate) as service:
            done = await run(service, QUARANTINE)
            assert done.returncode == 0, done.stderr
            refused = await run(service, PAUSE)
            assert refused.returncode == 1
            assert "li has no role that opens this call" in refused.stderr
            assert "OPPORTUNE_TOKEN_FILE" not in refused.stderr

    body()


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"TOKEN_FILE": "none.token"}, 5, "OPPORTUNE_TOKEN_FILE: cannot read none.token: No such file"),
        ({"CA": "none.pem"}, 5, "OPPORTUNE_CA: cannot read none.pem"),
        ({"CERTIFICATE": "here"}, 2, "OPPORTUNE_CERTIFICATE and OPPORTUNE_KEY go together"),
        ({"KEY": "here"}, 2, "OPPORTUNE_CERTIFICATE and OPPORTUNE_KEY go together"),
    ],
)
def test_what_cannot_be_used_is_said(
    variables: dict[str, str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_text("x")
    for name, value in variables.items():
        monkeypatch.setenv(f"OPPORTUNE_{name}", value)
    run = opportune("pause", "x", "--reason", "y", cwd=tmp_path)
    assert run.returncode == code
    assert said in run.stderr


def test_a_new_token_is_told_once_and_its_hash_fits(tmp_path: Path) -> None:
    run = opportune("token", "--days", 30, cwd=tmp_path)
    assert run.returncode == 0
    token = run.stdout.strip()
    assert run.stdout == f"{token}\n"
    assert token not in run.stderr
    assert re.findall(r'sha256: "(\w+)"', run.stderr) == [token_hash(token)]
    other = json.loads(opportune("token", "--json", cwd=tmp_path).stdout)
    assert other["token"] != token
    assert other["sha256"] == token_hash(other["token"])
    assert list(tmp_path.iterdir()) == []


def test_the_lines_of_a_new_token_are_what_the_file_wants(tmp_path: Path) -> None:
    run = opportune("token", cwd=tmp_path)
    path = tmp_path / "callers.yaml"
    path.write_text(f"callers:\n  - name: a\n    roles: [viewer]\n{run.stderr}")
    [known] = read_callers(path, 0).register.callers
    assert known.tokens[0].sha256 == token_hash(run.stdout.strip())
