"""Run the benchmarks: `python tests/bench/run.py [--only PREFIX]`.

Prints tables and writes build/bench.json, a list of {name, value, unit, against, ratio}. A benchmark is a
module beside this one with `rows(only) -> Iterable[Row]`, registered in BENCHES under the first part of its
rows' names; `only` is the prefix asked for, so that it may leave out what is not wanted. Rows of earlier
runs with other names are kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

BENCHES = {
    "match": "match",
    "ingest": "ingest",
    "ingest/redis_postgres": "shared",
    "publish": "latency",
    "advise": "latency",
    "check": "check",
    "state": "active",
    "state/redis_roundtrip": "redis_state",
    "fold_match": "fold",
    "scan": "scan",
    "decide": "decide",
    "rehearse": "rehearse",
    "reload": "reload",
}
"""How row names begin -> the module that measures them; of several beginnings the longest counts."""
RESULTS = Path(__file__).parents[2] / "build" / "bench.json"

sys.path.append(str(Path(__file__).parents[1]))  # for `support`, which benchmarks share with the tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="PREFIX", help="only rows whose name starts so: match/network"
    )
    parser.add_argument("--profile", action="store_true", help="then show where the time goes, if it can")
    asked = parser.parse_args()
    only = asked.only
    within = [first for first in BENCHES if first.startswith(only)]
    around = sorted((first for first in BENCHES if only.startswith(first)), key=len)
    chosen = dict.fromkeys(BENCHES[first] for first in within or around[-1:])
    if not chosen:
        parser.error(f"no benchmark has rows named {only}...; there are: {', '.join(BENCHES)}")
    found = [asdict(row) for module in chosen for row in importlib.import_module(module).rows(only)]
    names = {row["name"] for row in found}
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps([row for row in earlier if row["name"] not in names] + found, indent=1) + "\n"
    )
    print(f"{len(found)} rows written to {RESULTS}")
    for module in chosen if asked.profile else ():
        getattr(importlib.import_module(module), "profile", lambda: None)()


if __name__ == "__main__":
    main()
