"""An in-process fake of the service, for tests of programs that use these clients.

with FakeOpportune() as fake, fake.connect() as channel:
    fake.reject("e2", RejectionReason.TOO_LATE)
    with EventCollector(channel, "msc-7") as collector:
        ...
    assert [event.id for event in fake.events] == ["e1", "e3"]
"""

from opportune_client.testing.fake import FakeOpportune

__all__ = ["FakeOpportune"]
