# ruff: noqa: T201 - an example talks to whoever runs it
"""A counter: somebody is here; what may the clerk offer, and what came of it?

opportune dev                               # in another terminal
python clients/examples/counter.py [HOST:PORT]
"""

import sys
import uuid
from datetime import UTC, datetime

from opportune_client import CrmClient, ImportMode, NotFoundError, SubscriberRecord, connect

CUSTOMER = "8613900000001"


def main(target: str) -> None:
    with connect(target) as channel:
        crm = CrmClient(channel)
        try:
            crm.get_subscriber(CUSTOMER)
        except NotFoundError:
            # Usually the nightly extract brings the context of everybody.
            context = SubscriberRecord(CUSTOMER, {"age": 24, "brand": "mzone"})
            crm.import_subscribers([context], datetime.now(UTC), ImportMode.PATCH)
        # One id for one visit: should the call fail, repeat it with the same id.
        visit = str(uuid.uuid4())
        answer = crm.advise(CUSTOMER, "counter", request_id=visit, agent="clerk-12", timeout=1)
        if not answer.advices:
            print("Nothing to offer: leave the customer alone.")
        for advice in answer.advices:
            print(f"{advice.campaign_label or advice.campaign}: {advice.content}")
            for reason in advice.reasons:
                print(f"  because: {reason}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
