"""Measure what durable_rules 2.0.28 cannot do: `python tests/bench/durable_limits.py`.

These are the facts that shape `opportune_rulebase.durable.cage`. Each trial runs in a process of its own,
since some end in a crash or a hang. A bare number as the result is the library's own error code.
"""

from __future__ import annotations

import subprocess
import sys

from harness import console
from rich.table import Table

# A trial is what is tried, the numbers to try (as `n`), and how `rules` and `fact` are made.
TRIALS: list[tuple[str, list[int], str]] = [
    (
        "rules in a ruleset",
        [4096, 4097],
        "rules = {f'{i}': all_of(f'a{i // 64}', f'b{i % 64}') for i in range(n)}; fact = facts('a0', 'b0')",
    ),
    (
        "conditions true for one fact",
        [64, 65],
        "rules = {f'a{i}': all_of('x', f'a{i}') for i in range(n)}; fact = facts('x', *rules)",
    ),
    (
        "different first tests",
        [511, 512],
        "rules = {f'r{i}': all_of(f'a{i}') for i in range(n)}; fact = facts('a0')",
    ),
    (
        "rules with one identical condition",
        [255, 256],
        "rules = {f'r{i}': {'all': [{'m0': {'a': True}}]} for i in range(n)}; fact = facts('a')",
    ),
    (
        "properties of a fact besides sid and id",
        [252, 253],
        "rules = {'r': all_of('a0')}; fact = facts(*(f'a{i}' for i in range(n)))",
    ),
]
FIRE = """
import durable_rules_engine as binding, json
def all_of(*names): return {'all': [{'m0': {'$and': [{name: True} for name in names]}}]}
def facts(*names): return {'sid': '0', 'id': 'e'} | dict.fromkeys(names, True)
n = int(__import__('sys').argv[1])
def fired(handle, fact):
    unhandled, state = binding.assert_fact(handle, json.dumps(fact))
    started = None if unhandled else binding.start_action_for_state(handle, state)
    message, count = started and started[1], 0
    while message:
        count, message = count + 1, binding.complete_and_start_action(handle, state)
    return count
"""
REPORT = "print(fired(binding.create_ruleset('t', json.dumps(rules)), fact), 'fired')"
JOINED = """
rules = {'r': {'all': [{f'm{i}': {f'a{i}': True}} for i in range(n)]}}
handle = binding.create_ruleset('t', json.dumps(rules))
print([fired(handle, {'sid': '0', 'id': str(i), f'a{i}': True}) for i in range(n)][-1], 'fired')
"""
COLLIDING_SESSIONS = """
handle = binding.create_ruleset('t', json.dumps({'r': {'all': [{'m0': {'a': True}}, {'m1': {'b': True}}]}}))
fired(handle, {'sid': '48600462789', 'id': '1', 'a': True})
print(fired(handle, {'sid': '48600679192', 'id': '2', 'b': True}), 'fired over the facts of two sessions')
"""
COLLIDING_NAMES = """
handle = binding.create_ruleset('t', json.dumps({'r': all_of('attr49199')}))
print(fired(handle, facts('attr108832')), 'fired on another attribute')
"""
# A condition, and a fact for which it must not fire.
WRONG = [
    ("'abc' > 100", {"$gt": {"x": 100}}, {"x": "abc"}),
    ("'true' == True", {"x": True}, {"x": "true"}),
    ("'ab' >= 'ab c'", {"$gte": {"x": "ab c"}}, {"x": "ab"}),
]
COMPARED = """
handle = binding.create_ruleset('t', json.dumps({'r': {'all': [{'m0': CONDITION}]}}))
print(fired(handle, FACT | {'sid': '0', 'id': 'e'}), 'fired')
"""
LEAK = """
import resource
rules = {f'r{i}': all_of(*(f'a{j}' for j in range(i, i + 6))) for i in range(60)}
def swaps(number):
    for _ in range(number):
        handle = binding.create_ruleset('t', json.dumps(rules))
        fired(handle, facts('a0'))
        binding.delete_ruleset(handle)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = swaps(10)
print(f'{(swaps(n) - before) / n / 1024:.2f} MB kept for each')
"""


def main() -> None:
    table = Table("what", "number", "result", title="durable_rules 2.0.28 by its C binding")
    for what, numbers, setup in TRIALS:
        for number in numbers:
            table.add_row(what, str(number), _result(FIRE + setup + "\n" + REPORT, number))
    for number in (16, 17):
        table.add_row("patterns of a rule", str(number), _result(FIRE + JOINED, number))
    table.add_row("sessions with one hash", "2", _result(FIRE + COLLIDING_SESSIONS, 2))
    table.add_row("attributes with one hash", "2", _result(FIRE + COLLIDING_NAMES, 2))
    for what, condition, fact in WRONG:
        program = COMPARED.replace("CONDITION", repr(condition)).replace("FACT", repr(fact))
        table.add_row(what, "1", _result(FIRE + program, 1))
    table.add_row("rulesets of 60 rules made and deleted", "100", _result(FIRE + LEAK, 100))
    console.print(table)


def _result(program: str, number: int) -> str:
    try:
        run = subprocess.run(
            [sys.executable, "-c", program, str(number)],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "hangs (stopped after 10 s)"
    if run.returncode < 0:
        return f"killed by signal {-run.returncode}"
    return run.stdout.strip() or run.stderr.strip().splitlines()[-1].rpartition(": ")[2]


if __name__ == "__main__":
    main()
