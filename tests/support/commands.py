"""Runs the `opportune` command as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

COMMAND = (sys.executable, "-m", "opportune_service.cli")
INTERRUPTIBLE = (
    sys.executable,
    "-c",
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('opportune_service.cli', run_name='__main__', alter_sys=True)",
)
"""The same, for commands that Ctrl-C ends: whoever runs the tests in the background ignores it, and a
process inherits that. Not by `preexec_fn`: it would fork with gRPC's threads at work, which may hang."""

TIMEOUT_SECONDS = 60
"""Far longer than any command takes: a test that hangs must end."""


def opportune(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@contextmanager
def serving(arguments: Sequence[object], cwd: Path) -> Iterator[str]:
    """`opportune serve` on a free port; its address. At the end SIGTERM, and a clean end is checked."""
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
    with (
        (cwd / "serve.log").open("w") as log,
        subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), (cwd / "serve.log").read_text()
            yield line.split()[-1]
            process.terminate()
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            process.kill()
