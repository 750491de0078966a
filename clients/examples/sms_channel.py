# ruff: noqa: T201 - an example talks to whoever runs it
"""An SMS channel: takes decisions, "sends" them, and reports that they arrived. Ctrl-C ends it in order.

opportune dev                               # in another terminal
python clients/examples/sms_channel.py [HOST:PORT]
"""

import sys
from contextlib import suppress

from opportune_client import ChannelClient, Failed, Message, OutcomeKind, Sent, connect


def send(message: Message) -> Sent | Failed:
    """Stands for the SMS centre. Give it the idempotency key, so that it never sends one twice."""
    if not message.content:
        return Failed("there is nothing to send", retryable=False)
    print(f"to …{message.subscriber_id[-4:]}: {message.content}")
    return Sent(channel_message_id=message.idempotency_key)


def main(target: str) -> None:
    with connect(target) as channel, suppress(KeyboardInterrupt):

        def send_and_report(message: Message) -> Sent | Failed:
            handled = send(message)
            if isinstance(handled, Sent):
                # A real centre reports later, from wherever its receipts come in.
                client.receipt(message.decision_id, OutcomeKind.DELIVERED)
            return handled

        with ChannelClient(channel, "sms", send_and_report, client_name="example") as client:
            client.wait()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
