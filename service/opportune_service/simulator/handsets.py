"""Invented handsets: an IMEI is a real type allocation code, a made-up serial and a valid check digit."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from random import Random


def luhn_digit(digits: str) -> int:
    """The check digit that makes `digits` plus it pass the Luhn test."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


class Shop:
    """Where the people of the province buy handsets: a few models sell well, most are rare."""

    def __init__(self, tacs: Iterable[str]) -> None:
        self._tacs = tuple(tacs)
        self._weights = tuple(accumulate(1 / (rank + 3) for rank in range(len(self._tacs))))

    def imei(self, rng: Random, serial: int) -> str:
        """A 15-digit IMEI with a popular TAC; empty if the shop has no models."""
        if not self._tacs:
            return ""
        tac = rng.choices(self._tacs, cum_weights=self._weights)[0]
        body = f"{tac}{serial % 1_000_000:06d}"
        return f"{body}{luhn_digit(body)}"
