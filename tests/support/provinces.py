"""A made-up map and handset list for simulated provinces."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from opportune_rulebase.model import Place

ZONE = ZoneInfo("Asia/Shanghai")
MONDAY_US = int(datetime(2026, 11, 16, tzinfo=ZONE).timestamp()) * 1_000_000

CATEGORIES = (
    "residential", "office", "campus", "village", "village_market", "station", "airport", "mall", "market",
    "hospital", "hotel", "bank", "government", "cinema", "internet_cafe",
)  # fmt: skip


def made_up_cells(per_place: int = 4) -> dict[str, Place]:
    """Two places of every category, with so many cells each."""
    return {
        f"{category}-{which}-{cell}": Place(f"{category}-{which}", category, (category,))
        for category in CATEGORIES
        for which in range(2)
        for cell in range(per_place)
    }


def made_up_tacs(count: int = 20) -> list[str]:
    return [f"{35_000_000 + number}" for number in range(count)]
