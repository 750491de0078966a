"""What can go wrong in a call, as exceptions that need no knowledge of gRPC.

OpportuneError
|-- RequestError            the call can never succeed as it stands; `violations` says which field
|-- NotFoundError           what was named does not exist
|-- ConflictError           the world is not as the caller expected; look again and decide anew
|-- NotReadyError           the service must be brought into another state first
|-- AccessError             who calls is unknown, or may not do this
|-- UnavailableError        nothing is known to be done; the same call may succeed later
|   |-- BusyError           too much at once; wait for `retry_after`
|   `-- DeadlineError       the time was over; it may have been done all the same
|-- UnsupportedError        the service does not have this call, or not this part of it
|-- ServiceError            a fault of the service or of the connection; it may pass, tell the operator
|-- BufferFullError         a client's own buffer stayed full for the whole time given
`-- UnsentError             a client was closed before everything was acknowledged
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is wrong, by its path, and what to do about it."""

    field: str
    message: str


class OpportuneError(Exception):
    """Base of all errors of this package. The message is for people and quotes nobody's number.

    `reason` is the service's stable name for what went wrong, for programs to depend on; empty if it
    gave none. `metadata` holds the figures that go with it. `violations` lists the fields at fault.
    `retry_after` is the pause in seconds that the service asks for, or None. The error of the
    transport is the `__cause__`.
    """

    retryable = False
    """Whether the same call, with the same ids, may succeed later."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        fields = "; ".join(f"{violation.field}: {violation.message}" for violation in self.violations)
        message = super().__str__()
        return f"{message} ({fields})" if fields and fields not in message else message


class RequestError(OpportuneError):
    """The call can never succeed as it stands."""


class NotFoundError(OpportuneError):
    """What was named does not exist."""


class ConflictError(OpportuneError):
    """The world is not as the caller expected. Look again and decide anew."""


class NotReadyError(OpportuneError):
    """The service must be brought into another state first, such as having an active rulebase."""

    retryable = True


class AccessError(OpportuneError):
    """Who calls is unknown, or may not do this. Check token, certificate and role."""


class UnavailableError(OpportuneError):
    """The service cannot be reached or does not answer now. The same call may succeed later."""

    retryable = True


class BusyError(UnavailableError):
    """Too much at once. Wait for `retry_after`, then send less."""


class DeadlineError(UnavailableError):
    """The time was over. The call may have been carried out all the same; repeat it with its ids."""


class UnsupportedError(OpportuneError):
    """The service does not have this call, or not this part of it. Compare versions."""


class ServiceError(OpportuneError):
    """A fault of the service or of the connection to it. It may pass; if not, tell the operator."""

    retryable = True


class BufferFullError(OpportuneError):
    """The client's buffer stayed full for the whole time given; the item was not taken."""

    retryable = True


class UnsentError(OpportuneError):
    """A client was closed before everything was acknowledged. `unsent` holds what may be lost."""

    def __init__(self, message: str, unsent: tuple[object, ...]) -> None:
        super().__init__(message)
        self.unsent = unsent


_KINDS: dict[grpc.StatusCode, type[OpportuneError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.OUT_OF_RANGE: RequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: NotReadyError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


def from_rpc(error: grpc.RpcError) -> OpportuneError:
    """The error that a failed call stands for. Set `error` as its cause when raising it."""
    failed: Any = error  # both the synchronous and the asyncio error have these methods
    code: grpc.StatusCode = failed.code()
    details = _details(failed.trailing_metadata() or ())
    kind = _KINDS.get(code, ServiceError)
    message = failed.details() or f"the call failed with {code.name}"
    return kind(message, **details)


def of_stream(error: grpc.RpcError, *, welcomed: bool) -> OpportuneError:
    """The same for a stream that is opened again whenever it breaks. Whoever was welcomed on it was known:
    the token has expired or was replaced since, and the next stream shows the present one. If that is not
    good either, nobody will be welcomed."""
    trouble = from_rpc(error)
    if welcomed and isinstance(trouble, AccessError) and trouble.reason == "UNAUTHENTICATED":
        return UnavailableError(str(trouble), reason=trouble.reason)
    return trouble


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the transport into this package's."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error) from error


def _details(metadata: Any) -> dict[str, Any]:
    """Reason, violations and pause from the status that came with a failed call."""
    found: dict[str, Any] = {}
    status = status_pb2.Status()
    for key, value in metadata:
        if key == _DETAILS_KEY:
            try:
                status.ParseFromString(value)
            except DecodeError:  # a proxy's own trailer: the call failed all the same, with less said
                return found
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            found["reason"] = info.reason
            found["metadata"] = dict(info.metadata)
        elif detail.Unpack(request):
            found["violations"] = tuple(
                Violation(violation.field, violation.description) for violation in request.field_violations
            )
        elif detail.Unpack(retry):
            found["retry_after"] = retry.retry_delay.ToMicroseconds() / 1_000_000
    return found
