"""Same input, same bytes: simulated days by seed, in processes that differ in all that must not matter."""

from __future__ import annotations

from support.simulated_day import run_day


def test_the_same_day_gives_the_same_bytes_and_another_day_others() -> None:
    first = run_day(1, hash_seed=1, batch=1_000, TZ="UTC", LC_ALL="C")
    second = run_day(1, hash_seed=2, batch=37, TZ="Pacific/Auckland", LC_ALL="C.UTF-8")
    assert first == second
    assert first["decided"] > 10, "little was decided: the test shows little"
    assert first["lost"] > 20
    control = run_day(2, hash_seed=1, batch=1_000)
    assert control["fingerprint"] != first["fingerprint"], "a control: another day"
