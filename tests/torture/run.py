"""Break things at random while events stream, and check every promise.

    make torture ARGS="--seed 7 --minutes 10"

What happens follows from the seed; when exactly the service meets it does not, so a fault that is a race
may want several repetitions. Ends with 1 at the first violation, and says how to repeat its round.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `support`, which it shares with the tests

from figures import Figures
from rounds import ROUNDS, Round
from support.installations import NAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=10, help="no round begins after so long")
    parser.add_argument("--on", choices=NAMES, help="only on this installation")
    parser.add_argument("--kind", choices=sorted(ROUNDS), help="only rounds of this kind")
    parser.add_argument("--round", type=int, help="only this round, to repeat it")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.minutes:g} minutes", flush=True)
    figures, done = Figures(), Counter[tuple[str, str]]()
    end = time.monotonic() + asked.minutes * 60
    number = asked.round or 0
    while number == (asked.round or 0) or (asked.round is None and time.monotonic() < end):
        round_ = planned(asked.seed, number, [asked.on] if asked.on else NAMES, asked.kind)
        began = time.monotonic()
        print(f"round {number}: {round_.kind} on {round_.name}", end=" ", flush=True)
        try:
            said = ROUNDS[round_.kind](round_, figures)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
            print(f"\n\nVIOLATED: {error}\n", flush=True)
            traceback.print_exc()
            only = f" --on {asked.on}" if asked.on else ""
            only += f" --kind {asked.kind}" if asked.kind else ""
            print(f'\nrepeat it with: make torture ARGS="--seed {asked.seed} --round {number}{only}"')
            sys.exit(1)
        print(f"- {said} ({time.monotonic() - began:.0f} s)", flush=True)
        done[round_.kind, round_.name] += 1
        number += 1
    print("\nround             installation   times")
    for (kind, name), times in sorted(done.items()):
        print(f"{kind:17} {name:13} {times:6}")
    figures.show()
    print("\nno promise was broken")


def planned(seed: int, number: int, names: list[str] | tuple[str, ...], kind: str | None) -> Round:
    """Which round this is. Half of them are storms; the others take turns."""
    rng = random.Random(f"{seed}/{number}")
    others = sorted(ROUNDS)
    chosen = kind or ("storm" if number % 2 == 0 else others[number // 2 % len(others)])
    return Round(chosen, rng.choice(names), rng)


if __name__ == "__main__":
    main()
