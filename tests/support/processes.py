"""`opportune serve` as a process of its own, to be killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Served:
    """A running service and its address."""

    def __init__(self, process: subprocess.Popen[str], target: str) -> None:
        self.process = process
        self.target = target

    def kill(self) -> None:
        """As a crash does it: no handler runs, nothing is flushed."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self) -> int:
        """As an operator does it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def write_rulebase(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@contextmanager
def serving(database: Path, rulebase: Path, *options: str) -> Iterator[Served]:
    """A service on a port of its own choice; whatever happens, it does not outlive the block."""
    command = [sys.executable, "-m", "opportune_service.cli", "serve", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--database", f"sqlite:///{database}", "--rulebase", str(rulebase), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"listening on (\S+)", line):
                yield Served(process, found[1])
                break
        else:
            raise AssertionError(f"the service did not start: {''.join(lines)}")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)
