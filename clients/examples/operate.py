# ruff: noqa: T201 - an example talks to whoever runs it
"""An operator: what is in force, what was decided last, and why; with a directory, puts it in force first.

opportune dev                               # in another terminal
python clients/examples/operate.py [HOST:PORT [DIRECTORY]]
"""

import sys
from itertools import islice

from opportune_client import OperatorClient, Reason, connect


def activate(operator: OperatorClient, directory: str) -> None:
    checked = operator.check(directory)
    for problem in checked.problems:
        print(f"{problem.file}:{problem.line}:{problem.column}: {problem.message} {problem.hint}")
    if checked.valid:
        current = operator.get().rulebase.revision
        revision = operator.upload(directory, comment="by hand").rulebase.revision
        operator.activate(revision, expected_current=current)


def main(target: str, directory: str | None = None) -> None:
    with connect(target) as channel:
        operator = OperatorClient(channel)
        if directory is not None:
            activate(operator, directory)
        print(f"in force: {operator.get().rulebase.revision[:12]}")
        for decision in islice(operator.list_decisions(reasons=[Reason.DECIDED]), 3):
            print(f"{decision.campaign} on {decision.channel}: {decision.content}")
            for candidate in operator.explain(decision.decision_id).decisions:
                print(f"  {candidate.campaign}: {Reason(candidate.reason).name}")
                for finding in candidate.trace.findings:
                    print(f"    {finding.name} = {finding.value_json or 'unknown'}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["127.0.0.1:50051"]))
