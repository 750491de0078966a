"""Who gets plaintext, who never does, and how pauses grow."""

from __future__ import annotations

from typing import Any

import pytest
from opportune_client import connect
from opportune_client.connection import Backoff


@pytest.mark.parametrize(
    "given",
    [
        {"tls": False, "token": "secret"},
        {"tls": False, "root_certificates": b"x"},
        {"certificate": b"x"},
        {"private_key": b"x"},
    ],
)
def test_secrets_are_never_sent_in_plaintext_nor_by_halves(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"plaintext|together"):
        connect("127.0.0.1:1", **given)


@pytest.mark.parametrize(
    ("target", "tls", "secure"),
    [
        ("127.0.0.1:1", None, False),
        ("[::1]:1", None, False),
        ("localhost:1", None, False),
        ("dns:///localhost:1", None, False),
        ("unix:/run/x", None, False),
        ("10.0.0.1:1", None, True),
        ("opportune.example:443", None, True),
        ("localhost.example:443", None, True),
        ("127.0.0.1:1", True, True),
        ("10.0.0.1:1", False, False),
    ],
)
def test_only_the_loopback_is_plaintext_unasked(
    target: str, tls: bool | None, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    monkeypatch.setattr("grpc.secure_channel", lambda *_, **__: made.append(True))
    monkeypatch.setattr("grpc.insecure_channel", lambda *_, **__: made.append(False))
    connect(target, tls=tls)
    assert made == [secure]


def test_a_token_turns_tls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("grpc.secure_channel", lambda target, *_, **__: made.append(target))
    connect("127.0.0.1:1", token=lambda: "fresh")
    assert made == ["127.0.0.1:1"]


def test_pauses_double_with_jitter_up_to_a_bound() -> None:
    backoff = Backoff()
    bound = Backoff.FIRST
    for _ in range(12):
        assert bound / 2 <= backoff.next() <= bound
        bound = min(bound * 2, Backoff.LONGEST)
    backoff.reset()
    assert backoff.next() <= Backoff.FIRST
    assert backoff.next(at_least=60) == 60
