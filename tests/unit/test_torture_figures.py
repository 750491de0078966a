"""What `make torture` says of memory: that a run which leaks is found."""

from __future__ import annotations

import pytest
from torture.figures import Figures


def test_memory_that_is_flat_once_all_is_warm_is_no_violation() -> None:
    Figures().note_growth("memory", [*range(100), *[100] * 300])


def test_control_a_leak_is_found() -> None:
    with pytest.raises(AssertionError, match=r"memory: 2\.\d"):
        Figures().note_growth("memory", range(1_000))
