"""Interface files: complete or not there, each message once, and only what may still be sent."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from opportune_client.interface_files import COLUMNS, FORMAT, InterfaceFiles
from opportune_client.leases import Failed, Handled, Message, Sent


def message(number: int, *, lasts_seconds: float = 3600) -> Message:
    return Message(
        decision_id=f"d{number}",
        idempotency_key=f"k{number}",
        subscriber_id=f"86138{number:08}",
        content=f'第 {number} 条, "quoted"\nand a second line',
        channel="outbound",
        campaign="tariff-advice",
        campaign_label="资费建议",
        product="tariff",
        attempt=1,
        expires_at=datetime.now(UTC) + timedelta(seconds=lasts_seconds),
        test=False,
    )


def rows_in(directory: Path) -> list[dict[str, str]]:
    """As a reader takes them: files that have a manifest, checked against it."""
    rows: list[dict[str, str]] = []
    for path in sorted(directory.glob("*.json")):
        manifest = json.loads(path.read_text())
        data = (directory / manifest["file"]).read_bytes()
        assert manifest["format"] == FORMAT
        assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["bytes"] == len(data)
        found = list(csv.DictReader(data.decode().splitlines(keepends=True)))
        assert manifest["rows"] == len(found)
        assert tuple(manifest["columns"]) == COLUMNS
        rows += found
    return rows


def left_in(directory: Path) -> list[str]:
    """All that lies there but the lock."""
    return [path.name for path in directory.iterdir() if path.suffix != ".lock"]


async def hand_over(files: InterfaceFiles, *messages: Message) -> list[Handled]:
    tasks = [asyncio.create_task(files(each)) for each in messages]
    await asyncio.sleep(0)  # every task has handed its message over
    await files.flush()
    return await asyncio.gather(*tasks)


def test_messages_come_out_as_they_went_in(tmp_path: Path) -> None:
    files = InterfaceFiles(tmp_path, "outbound", most=2, wait_seconds=3600)
    sent = [message(number) for number in range(5)]
    handled = asyncio.run(hand_over(files, *sent))
    rows = rows_in(tmp_path)
    assert [row["content"] for row in rows] == [each.content for each in sent]
    assert [row["subscriber_id"] for row in rows] == [each.subscriber_id for each in sent]
    assert len(list(tmp_path.glob("*.csv"))) == 3
    names = {path.name for path in tmp_path.glob("*.csv")}
    assert {each.channel_message_id for each in handled if isinstance(each, Sent)} == names


def test_a_message_that_comes_again_is_not_written_again(tmp_path: Path) -> None:
    first = InterfaceFiles(tmp_path, "outbound", wait_seconds=3600)
    (once,) = asyncio.run(hand_over(first, message(1)))
    again = InterfaceFiles(tmp_path, "outbound", wait_seconds=3600)
    both = asyncio.run(hand_over(again, message(1), message(2)))
    assert both[0] == once
    assert [row["idempotency_key"] for row in rows_in(tmp_path)] == ["k1", "k2"]


def test_what_a_crash_left_half_done_is_written_anew(tmp_path: Path) -> None:
    asyncio.run(hand_over(InterfaceFiles(tmp_path, "outbound", wait_seconds=3600), message(1)))
    (manifest,) = tmp_path.glob("*.json")
    manifest.unlink()  # as if the process had ended between the two
    (tmp_path / ".outbound-20261122T080000.000000Z-000001.csv.part").write_bytes(b"half")
    asyncio.run(hand_over(InterfaceFiles(tmp_path, "outbound", wait_seconds=3600), message(1)))
    assert [row["idempotency_key"] for row in rows_in(tmp_path)] == ["k1"]
    assert len(left_in(tmp_path)) == 2


def test_what_another_channel_is_writing_is_left_alone(tmp_path: Path) -> None:
    name = "outbound-night-20261122T080000.000000Z-000001.csv"
    for other in (name, f".{name}.part"):
        (tmp_path / other).write_bytes(b"half")
    InterfaceFiles(tmp_path, "outbound")
    assert len(left_in(tmp_path)) == 2
    InterfaceFiles(tmp_path, "outbound-night")
    assert not left_in(tmp_path), "the control"


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    InterfaceFiles(tmp_path, "outbound")
    code = "import sys, opportune_client.interface_files as files; files.InterfaceFiles(*sys.argv[1:])"
    for channel, ended in (("outbound", 1), ("outbound-night", 0)):
        second = subprocess.run(
            [sys.executable, "-c", code, tmp_path, channel], capture_output=True, text=True, check=False
        )
        assert second.returncode == ended, second.stderr
        assert ("another process writes" in second.stderr) == bool(ended)


def test_a_message_that_comes_again_while_it_waits_is_written_once(tmp_path: Path) -> None:
    files = InterfaceFiles(tmp_path, "outbound", wait_seconds=3600)
    first, second = asyncio.run(hand_over(files, message(1), message(1)))
    assert first == second
    assert len(rows_in(tmp_path)) == 1


def test_a_full_disk_is_not_filled_further(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    files = InterfaceFiles(tmp_path, "outbound", wait_seconds=3600)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            asyncio.run(hand_over(files, message(1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not left_in(tmp_path)
    assert isinstance(asyncio.run(hand_over(files, message(1)))[0], Sent)


def test_what_is_over_when_the_file_is_written_is_left_out(tmp_path: Path) -> None:
    files = InterfaceFiles(tmp_path, "outbound", wait_seconds=3600)
    late, timely = asyncio.run(hand_over(files, message(1, lasts_seconds=-1), message(2)))
    assert isinstance(late, Failed)
    assert late.retryable, "the offer may last longer than its lease"
    assert isinstance(timely, Sent)
    assert [row["decision_id"] for row in rows_in(tmp_path)] == ["d2"]


def test_nothing_is_acknowledged_that_could_not_be_written(tmp_path: Path) -> None:
    directory = tmp_path / "files"
    files = InterfaceFiles(directory, "outbound", wait_seconds=3600)
    directory.rename(tmp_path / "away")

    async def hand_over_badly() -> None:
        with pytest.raises(OSError, match="No such file"):
            await hand_over(files, message(1))
        (tmp_path / "away").rename(directory)
        assert isinstance((await hand_over(files, message(1)))[0], Sent)

    asyncio.run(hand_over_badly())
    assert [row["decision_id"] for row in rows_in(directory)] == ["d1"]


def test_a_file_is_written_when_the_time_is_over(tmp_path: Path) -> None:
    files = InterfaceFiles(tmp_path, "outbound", wait_seconds=0.01)

    async def wait_for_it() -> Handled:
        async with asyncio.timeout(30):
            return await files(message(1))

    assert isinstance(asyncio.run(wait_for_it()), Sent)
