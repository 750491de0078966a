# ruff: noqa: T201 - an example talks to whoever runs it
"""A business system: a refusal, a contact of its own, the view of a customer, what is new for analysts.

opportune dev                               # in another terminal
python clients/examples/contacts.py [HOST:PORT]
"""

import sys
from datetime import UTC, datetime
from itertools import islice

from opportune_client import CrmClient, Mode, OutcomeKind, RecordedContact, connect

CUSTOMER = "8613900000001"


def main(target: str) -> None:
    with connect(target) as channel:
        crm = CrmClient(channel)
        answer = crm.set_consent(CUSTOMER, "channel/sms", False, origin="shop")
        print(f"in force: {answer.consent.scope} refused, as was said: {answer.applied}")

        # The id is that of the shop's own record: sent twice, it counts once.
        talk = RecordedContact(
            "talk-1", CUSTOMER, "counter", Mode.MANUAL, datetime.now(UTC), content="Hello!"
        )
        recorded = crm.record_contacts("shop", [talk])
        print(f"recorded: {recorded.recorded_count}, known before: {recorded.duplicate_count}")

        for contact in crm.get_contact_view(CUSTOMER).marketing:
            answers = [OutcomeKind(outcome.kind).name for outcome in contact.outcomes]
            print(f"{contact.origin or 'we'} on {contact.channel}: {contact.content} {answers}")

        # Keep the cursor where you keep the entries, and begin there the next time.
        cursor = ""
        for piece in islice(crm.export_contacts(cursor), 3):
            print(f"{len(piece.contacts)} changes, up to {piece.cursor}")
            cursor = piece.cursor


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
