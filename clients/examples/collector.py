# ruff: noqa: T201 - an example talks to whoever runs it
"""A collector: one subscriber misses three calls in a row.

opportune dev                               # in another terminal
python clients/examples/collector.py [HOST:PORT]
"""

import sys
from datetime import UTC, datetime

from opportune_client import Event, EventCollector, Rejected, connect


def say_why(rejected: Rejected) -> None:
    print(f"rejected: {rejected.event.type}: {rejected.reason.name}: {rejected.message}")


def main(target: str) -> None:
    now = datetime.now(UTC)
    # The id makes an event the same event when it is sent again: name it after what the network saw.
    seen = [
        Event(
            id=f"msc-7/{now:%Y%m%dT%H%M%S}/{number}",
            subscriber_id="8613900000001",
            type="call_missed",
            occurred_at=now,
            attributes={"cause": "no_answer"},
        )
        for number in range(3)
    ]
    with connect(target) as channel, EventCollector(channel, "msc-7", on_rejection=say_why) as collector:
        collector.send_many(seen)
        # From here on the service has them for good; without it, leaving the block waits for that.
        collector.flush()
        print(collector.counters)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
