"""A running service with its metrics, read as Prometheus and an orchestrator read them: over HTTP."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opportune_service.adapters.metrics.server import Monitor, monitoring
from opportune_service.cli.serve import not_ready
from prometheus_client.parser import text_string_to_metric_families
from support.server import Service, running_service

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def watched_service(*args: Any, **settings: Any) -> AsyncIterator[tuple[Service, Monitor]]:
    """As `running_service`, with a monitor on a free port."""
    async with monitoring("127.0.0.1:0") as monitor, running_service(*args, **settings) as service:
        monitor.watch(service.app, service.server.calls, lambda: not_ready(service.app, service.server))
        yield service, monitor


async def get(monitor: Monitor, path: str) -> tuple[int, str]:
    """Status and body; asked from another thread, as from another machine."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def scrape(monitor: Monitor) -> Samples:
    """All samples, by name and labels."""
    status, text = await get(monitor, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """One of them; None if there is no such sample."""
    return samples.get((name, frozenset(labels.items())))
