"""Programs of the tests that print one line of JSON, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def answer_of(program: str, *arguments: object, hash_seed: int, **environment: str) -> dict[str, Any]:
    """What the module prints. `hash_seed`: sets are in another order under each. Raises
    `CalledProcessError`."""
    done = subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONHASHSEED": str(hash_seed),
            **environment,
        },
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
