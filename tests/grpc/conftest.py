"""The fake that users of the clients get for their own tests."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from opportune_client.testing import FakeOpportune


@pytest.fixture
def fake() -> Iterator[FakeOpportune]:
    with FakeOpportune(lease_seconds=0.05) as fake:
        yield fake


@pytest.fixture
def channel(fake: FakeOpportune) -> Iterator[grpc.Channel]:
    with fake.connect() as channel:
        yield channel
