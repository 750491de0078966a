"""`opportune serve` as a process of its own, to be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.unsafe_service import SAFETY


class Served:
    """A running service and its address, which stays the same however often it is started again."""

    def __init__(self, environment: Mapping[str, str], options: tuple[str, ...], log: Path | None) -> None:
        # With the path of the tests, for `unsafe_service`.
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        self._options = options
        self._log = log
        self.target = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Returns when it listens."""
        program = "support.unsafe_service" if SAFETY in self._environment else "opportune_service.cli"
        command = [sys.executable, "-m", program, "serve", "--listen", self.target]
        with ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(self._log.open("ab"))
            self.process = subprocess.Popen(
                [*command, *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := re.search(r"listening on (\S+)", line):
                self.target = found[1]
                return
        self.close()
        raise AssertionError(f"the service did not start: {''.join(lines)}")

    def kill(self) -> None:
        """As a crash does it: no handler runs, nothing is flushed."""
        self.process.send_signal(signal.SIGKILL)
        self._ended(timeout=30)

    def stop(self) -> int:
        """As an operator does it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended(timeout=60)

    def freeze(self) -> None:
        """As a machine that hangs: its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Whatever happens, it does not outlive the test."""
        if self.process.poll() is None:
            self.process.kill()
        self._ended(timeout=30)

    def _ended(self, timeout: float) -> int:
        code = self.process.wait(timeout)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def write_rulebase(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@contextmanager
def serving_with(
    environment: Mapping[str, str], *options: str, log: Path | None = None
) -> Iterator[Served]:
    """A service with these settings, on a port of its own choice. `log`: the file that its log lines are
    added to."""
    served = Served(environment, options, log)
    try:
        yield served
    finally:
        served.close()


@contextmanager
def serving(database: Path, rulebase: Path, *options: str) -> Iterator[Served]:
    """An embedded service on this file."""
    environment = {"OPPORTUNE_DATABASE": f"sqlite:///{database}"}
    with serving_with(environment, "--rulebase", str(rulebase), *options) as served:
        yield served
