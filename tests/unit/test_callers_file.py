"""The file of callers: what it says, and everything that is wrong with it at once, with its line."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest
from opportune_service.adapters.files.callers import read_callers, watch_callers
from opportune_service.adapters.files.yaml_files import YamlFileError
from opportune_service.app.access import token_hash
from support.rulebases import NOON_US

HASH = {name: token_hash(name) for name in ("one", "two", "three")}
GOOD = f"""\
callers:
  - name: ggsn-1
    roles: [collector]
    certificates: [ggsn-1.collectors.example, spiffe://operator/ggsn-1]
    calls_per_second: 200
    events_per_second: 50000
  - name: sms-gateway
    roles: [channel:sms, channel:mms, collector]
    tokens:
      - sha256: "{HASH["one"]}"
        expires_at: 2026-12-01T00:00:00Z
      - sha256: "{HASH["two"]}"
        expires_at: 2026-11-20T11:59:59+08:00
  - name: zhang.wei
    roles: [operator, analyst]
    branches: [hangzhou, 宁波]
    tokens:
      - {{sha256: "{HASH["three"]}", expires_at: "2027-01-01T00:00:00+08:00"}}
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "callers.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(directory: Path, text: str) -> list[str]:
    with pytest.raises(YamlFileError) as caught:
        read_callers(written(directory, text), NOON_US)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults)
    return [f"{each.line}: {each.message}" for each in caught.value.faults]


def test_a_good_file(tmp_path: Path) -> None:
    read = read_callers(written(tmp_path, GOOD), NOON_US)
    collector, gateway, operator = read.register.callers
    assert collector.caller.name == "ggsn-1"
    assert collector.caller.roles == {"ROLE_COLLECTOR"}
    assert collector.caller.channels == frozenset()
    assert collector.caller.branches is None
    assert collector.certificates == ("ggsn-1.collectors.example", "spiffe://operator/ggsn-1")
    assert (collector.calls_per_second, collector.events_per_second) == (200, 50_000)
    assert gateway.caller.roles == {"ROLE_CHANNEL", "ROLE_COLLECTOR"}
    assert gateway.caller.channels == {"sms", "mms"}
    assert [each.sha256 for each in gateway.tokens] == [HASH["one"], HASH["two"]]
    assert gateway.tokens[1].expires_at_us == NOON_US - 1_000_000
    assert operator.caller.branches == {"hangzhou", "宁波"}
    assert operator.tokens[0].expires_at_us == 1_798_732_800_000_000


def test_a_token_that_has_expired_is_said_and_keeps_nobody_from_starting(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert [str(each) for each in read_callers(path, NOON_US).expired] == [
        f"{path}:12: a token of sms-gateway has expired"
    ]


def one(*lines: str) -> str:
    """A file with one caller, who has these lines."""
    return "callers:\n  - " + "\n    ".join(lines) + "\n"


TOKEN = f'tokens: [{{sha256: "{HASH["one"]}", expires_at: 2027-01-01T00:00:00Z}}]'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("callers: []\n", "1: callers: write at least 1"),
        ("[1, 2]\n", "0: a file of callers is a map with the one key callers"),
        ("callers: {a: 1}\n", "1: callers: must be a list"),
        ("callers: [1]\n", "1: callers.0: must be a map"),
        ("callers: [\n", "2: not YAML"),
        (one("name: a", "name: b", "roles: [viewer]", TOKEN), "3: not YAML: found duplicate key"),
        (one("name: a", "roles: [viewer]", "certificate: x", TOKEN), "4: callers.0.certificate: unkn"),
        (one("roles: [viewer]", TOKEN), "2: callers.0.name: this key is missing"),
        (one("name: a", TOKEN), "2: callers.0.roles: this key is missing"),
        (one("name: A b", "roles: [viewer]", TOKEN), "2: callers.0.name: String should match"),
        (one("name: 12", "roles: [viewer]", TOKEN), "2: callers.0.name: must be a text"),
        (one("name: a", "roles: []", TOKEN), "3: callers.0.roles: write at least 1"),
        (one("name: a", "roles: [oprator]", TOKEN), "3: callers.0.roles.0: no such role; there are"),
        (one("name: a", "roles: [channel]", TOKEN), "3: callers.0.roles.0: name the channel"),
        (one("name: a", 'roles: ["channel:"]', TOKEN), "3: callers.0.roles.0: name the channel"),
        (one("name: a", "roles: [ROLE_OPERATOR]", TOKEN), "3: callers.0.roles.0: no such role"),
        (one("name: a", "roles: [viewer]"), "2: callers.0: give certificates or tokens"),
        (one("name: a", "roles: [viewer]", "tokens: []"), "2: callers.0: give certificates or tokens"),
        (one("name: a", "roles: [viewer]", "branches: []", TOKEN), "4: callers.0.branches: write"),
        (one("name: a", "roles: [viewer]", "calls_per_second: 0", TOKEN), "4: callers.0.calls_per_second"),
        (one("name: a", "roles: [viewer]", "calls_per_second: 1.5", TOKEN), "4: callers.0.calls_per"),
        (one("name: a", "roles: [viewer]", "calls_per_second: yes", TOKEN), "4: callers.0.calls_per"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (f'{{sha256: "{"A" * 64}", expires_at: 2027-01-01T00:00:00Z}}', "64 hexadecimal digits"),
        (f'{{sha256: "{"a" * 63}", expires_at: 2027-01-01T00:00:00Z}}', "64 hexadecimal digits"),
        ("{sha256: opp_abc, expires_at: 2027-01-01T00:00:00Z}", "64 hexadecimal digits"),
        (f'{{sha256: "{sha256(b"secret").hexdigest()}", expires_at: 2027-01-01T00:00:00Z}}', "guesses"),
        (f'{{sha256: "{sha256(b"").hexdigest().upper()}", expires_at: 2027-01-01T00:00:00Z}}', "guesses"),
        (f"{{sha256: {'1' * 64}, expires_at: 2027-01-01T00:00:00Z}}", "put it in quotes"),
        (f'{{sha256: "{HASH["one"]}"}}', "expires_at: this key is missing"),
        (f'{{sha256: "{HASH["one"]}", expires_at: 2027-01-01T00:00:00}}', "timezone"),
        (f'{{sha256: "{HASH["one"]}", expires_at: 2027-01-01}}', "date with time and zone"),
        (f'{{sha256: "{HASH["one"]}", expires_at: 1800000000}}', "date with time and zone"),
        (f'{{sha256: "{HASH["one"]}", expires_at: never}}', "expires_at: "),
        (f'{{token: "{HASH["one"]}", expires_at: 2027-01-01T00:00:00Z}}', "token: unknown key"),
    ],
)
def test_a_token_that_will_not_do(tmp_path: Path, token: str, said: str) -> None:
    found = faults(tmp_path, one("name: a", "roles: [viewer]", "tokens:", f"  - {token}"))
    assert any(said in each for each in found), found
    assert all(each.startswith("5: callers.0.tokens.0") for each in found)


def test_no_two_callers_are_one(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        f"""\
callers:
  - name: a
    roles: [viewer]
    certificates: [x, y]
    tokens:
      - sha256: "{HASH["one"]}"
        expires_at: 2027-01-01T00:00:00Z
  - name: a
    roles: [viewer]
    certificates: [y]
  - name: c
    roles: [viewer]
    tokens:
      - sha256: "{HASH["one"]}"
        expires_at: 2027-01-01T00:00:00Z
""",
    )
    assert said == [
        "8: callers.1.name: this is the name of a already",
        "10: callers.1.certificates.0: this is a certificate of a already",
        "14: callers.2.tokens.0.sha256: this is a token of a already",
    ]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        one("name: a", "roles: [boss]", TOKEN)
        + "  - name: a\n    roles: [viewer]\n    branch: x\n    tokens: [{sha256: nothing}]\n",
    )
    assert [each.partition(":")[0] for each in said] == ["3", "5", "7", "8", "8"]
    assert "nothing" not in "".join(said), "a secret that was put there by mistake is not quoted"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(YamlFileError, match="cannot be read: No such file"):
        read_callers(tmp_path / "none.yaml", NOON_US)


def test_a_change_is_told_once_it_is_whole(tmp_path: Path) -> None:
    async def body() -> None:
        path = written(tmp_path, GOOD)
        changes = watch_callers(path, every_seconds=0)
        path.write_text(GOOD + "# changed after the watch was begun\n", encoding="utf-8")
        await anext(changes)
        again = asyncio.ensure_future(anext(changes))
        for _ in range(20):
            await asyncio.to_thread(path.stat)
            assert not again.done()
        path.unlink()
        await again

    asyncio.run(body())
