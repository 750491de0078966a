"""The ledger that the contract is checked on: once on each of the stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_service.app.ports import Ledger
from support.ledgers import STORES, opener
from support.query_plans import searched


@pytest.fixture(params=STORES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    with searched():
        opened = opener(request.param, tmp_path, request)()
        yield opened
        opened.close()
