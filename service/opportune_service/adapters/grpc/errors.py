"""Every error as a caller sees it: one table from domain errors to `google.rpc.Status`.

The status carries an ErrorInfo with a stable reason in the domain ``opportune``, BadRequest violations
for the caller's own faults, and a RetryInfo where trying again may help. Causes stay inside: they are
logged, never sent.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from string import ascii_lowercase
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from opportune_rulebase.errors import Severity

from opportune_service.app.calls import current_call
from opportune_service.app.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NoRulebaseError,
    NotFoundError,
    NotReadyError,
    OpportuneError,
    PrunedError,
    RateLimitedError,
    RulebaseRefusedError,
    StoreUnavailableError,
    UnauthenticatedError,
    UnknownDecisionError,
    UnknownRevisionError,
    UnsignedError,
)
from opportune_service.core.admit import mask

log = logging.getLogger(__name__)

DOMAIN = "opportune"
RETRY_AFTER_MS = 500
_MAX_TEXT = 300
# Clients refuse metadata of more than 8 KiB unless told otherwise, and base64 makes it a third longer.
_MAX_DETAILS = 4_096


class MalformedMessageError(OpportuneError):
    """The bytes are not the message that the method takes."""


class UnsupportedError(OpportuneError):
    """Part of the contract that this version does not honour yet. `missing` names it."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        super().__init__(f"{missing} is not supported yet: it arrives with a later release")


class ShuttingDownError(OpportuneError):
    """This server drains; another one, or this one after its restart, will take the call."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; connect again")


class CallerChangedError(OpportuneError):
    """What the caller of a stream may do was changed while it was open; another call goes by that."""

    def __init__(self) -> None:
        super().__init__("what you may do has changed since this stream began; connect again")


_CODES: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    MalformedMessageError: (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    RulebaseRefusedError: (grpc.StatusCode.INVALID_ARGUMENT, "RULEBASE_REFUSED"),
    UnknownDecisionError: (grpc.StatusCode.NOT_FOUND, "UNKNOWN_DECISION"),
    UnknownRevisionError: (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REVISION"),
    NotFoundError: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    UnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    UnsignedError: (grpc.StatusCode.PERMISSION_DENIED, "NOT_SIGNED"),
    ForbiddenError: (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN"),
    RateLimitedError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    ConflictError: (grpc.StatusCode.ABORTED, "CONFLICT"),
    PrunedError: (grpc.StatusCode.OUT_OF_RANGE, "PRUNED"),
    NoRulebaseError: (grpc.StatusCode.FAILED_PRECONDITION, "NO_RULEBASE"),
    NotReadyError: (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY"),
    StoreUnavailableError: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    ShuttingDownError: (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
    CallerChangedError: (grpc.StatusCode.UNAVAILABLE, "CALLER_CHANGED"),
    UnsupportedError: (grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED_YET"),
}


async def abort(
    context: grpc.aio.ServicerContext[Message, Message], error: Exception, method: str
) -> NoReturn:
    """End the call with the status of `error`. An error that is not in the table is a fault of ours: it
    is logged under an id, and the id is all that the caller is told, with the trace of the log's lines."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, status = _status(error, method)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, details)


def _status(error: Exception, method: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    for kind in type(error).__mro__:
        if kind in _CODES:
            code, reason = _CODES[kind]
            break
    else:
        return _internal(error, method)
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"method": method})
    message = str(error)
    details: list[Message] = [info]
    if isinstance(error, UnsupportedError):
        info.metadata["missing"] = error.missing
    elif isinstance(error, InvalidRequestError):
        details.append(_bad_request([(error.field, message)]))
    elif isinstance(error, RulebaseRefusedError):
        errors = [p for p in error.problems if p.severity is Severity.ERROR]
        details.append(_bad_request([(str(p.position), f"{p.message}. {p.hint}") for p in errors]))
    elif isinstance(error, StoreUnavailableError):
        # The store's own words name files and drivers; they are for the log.
        log.warning("%s: %s", method, mask(str(error)))
        info.metadata.update(_trace())
        message = "the store is unavailable and nothing of this was acknowledged; try again"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        retry = error_details_pb2.RetryInfo()
        wait_us = error.wait_us if isinstance(error, RateLimitedError) else RETRY_AFTER_MS * 1_000
        retry.retry_delay.FromMicroseconds(wait_us)
        details.append(retry)
    return code, _packed(code, message, details)


def _internal(error: Exception, method: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    # Letters only: the log blots out what may be a number.
    fault = "".join(secrets.choice(ascii_lowercase) for _ in range(8))
    log.error("fault %s in %s: %s", fault, method, mask("".join(traceback.format_exception(error))))
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"method": method, "fault": fault, **_trace()}
    )
    message = f"a fault of the server; its log has the details under {fault}"
    return grpc.StatusCode.INTERNAL, _packed(grpc.StatusCode.INTERNAL, message, [info])


def _trace() -> dict[str, str]:
    call = current_call()
    return {"trace_id": call.trace_id} if call else {}


def _bad_request(violations: list[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """The violations, as many as fit."""
    request = error_details_pb2.BadRequest()
    for field, description in violations:
        violation = request.field_violations.add(
            field=field[:_MAX_TEXT], description=description[:_MAX_TEXT].rstrip()
        )
        if request.ByteSize() > _MAX_DETAILS:
            request.field_violations.remove(violation)
            break
    return request


def _packed(code: grpc.StatusCode, message: str, details: list[Message]) -> status_pb2.Status:
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message[:_MAX_TEXT])
    for detail in details:
        status.details.add().Pack(detail)
    return status
