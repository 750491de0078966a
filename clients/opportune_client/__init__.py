"""Python clients of Opportune: collectors, business systems, channels and operators.

    with connect("127.0.0.1:50051") as channel, EventCollector(channel, "msc-7") as collector:
        collector.send(Event("msc-7/1", "8613900000001", "power_on", datetime.now(UTC)))

Instants are aware datetimes. Answers are the messages of the contract (`opportune.v1`). Errors are
drawn in `opportune_client.errors`. For tests of your own there is `opportune_client.testing`.
"""

from opportune_client.archives import pack_rulebase
from opportune_client.async_channel import AsyncChannelClient
from opportune_client.async_collector import AsyncEventCollector
from opportune_client.channel import ChannelClient
from opportune_client.collector import EventCollector
from opportune_client.connection import channel_options, connect, connect_async, service_config
from opportune_client.contacts import RecordedContact
from opportune_client.crm import AsyncCrmClient, CrmClient
from opportune_client.errors import (
    AccessError,
    BufferFullError,
    BusyError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    NotReadyError,
    OpportuneError,
    RequestError,
    ServiceError,
    UnavailableError,
    UnsentError,
    UnsupportedError,
    Violation,
)
from opportune_client.events import Event
from opportune_client.imports import SubscriberRecord
from opportune_client.leases import ChannelCounters, Failed, Message, Sent
from opportune_client.operators import OperatorClient
from opportune_client.outbox import CollectorCounters, Rejected
from opportune_client.times import from_timestamp, to_timestamp
from opportune_client.words import (
    ActivationMode,
    Encoding,
    ImportMode,
    Mode,
    OutcomeKind,
    Reason,
    RejectionReason,
    RulebaseEvent,
    RulebaseState,
)

__all__ = [
    "AccessError",
    "ActivationMode",
    "AsyncChannelClient",
    "AsyncCrmClient",
    "AsyncEventCollector",
    "BufferFullError",
    "BusyError",
    "ChannelClient",
    "ChannelCounters",
    "CollectorCounters",
    "ConflictError",
    "CrmClient",
    "DeadlineError",
    "Encoding",
    "Event",
    "EventCollector",
    "Failed",
    "ImportMode",
    "Message",
    "Mode",
    "NotFoundError",
    "NotReadyError",
    "OperatorClient",
    "OpportuneError",
    "OutcomeKind",
    "Reason",
    "RecordedContact",
    "Rejected",
    "RejectionReason",
    "RequestError",
    "RulebaseEvent",
    "RulebaseState",
    "Sent",
    "ServiceError",
    "SubscriberRecord",
    "UnavailableError",
    "UnsentError",
    "UnsupportedError",
    "Violation",
    "channel_options",
    "connect",
    "connect_async",
    "from_timestamp",
    "pack_rulebase",
    "service_config",
    "to_timestamp",
]
