"""Failed calls become errors that need no knowledge of gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import opportune_client as oc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from opportune_client.errors import from_rpc, translated


class FailedCall(grpc.RpcError):
    """What a failed call looks like, both kinds of it."""

    def __init__(self, code: grpc.StatusCode, details: str = "", trailer: Any = ()) -> None:
        self._answer = (code, details, trailer)

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]

    def trailing_metadata(self) -> Any:
        return self._answer[2]


def with_details(*details: Any) -> FailedCall:
    status = status_pb2.Status(message="told")
    for detail in details:
        status.details.add().Pack(detail)
    trailer = (("other", "x"), ("grpc-status-details-bin", status.SerializeToString()))
    return FailedCall(grpc.StatusCode.INVALID_ARGUMENT, "told", trailer)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, oc.RequestError),
        (grpc.StatusCode.NOT_FOUND, oc.NotFoundError),
        (grpc.StatusCode.ABORTED, oc.ConflictError),
        (grpc.StatusCode.FAILED_PRECONDITION, oc.NotReadyError),
        (grpc.StatusCode.UNAUTHENTICATED, oc.AccessError),
        (grpc.StatusCode.PERMISSION_DENIED, oc.AccessError),
        (grpc.StatusCode.UNAVAILABLE, oc.UnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, oc.BusyError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, oc.DeadlineError),
        (grpc.StatusCode.INTERNAL, oc.ServiceError),
        (grpc.StatusCode.UNIMPLEMENTED, oc.UnsupportedError),
    ],
)
def test_every_status_has_its_error(code: grpc.StatusCode, kind: type[oc.OpportuneError]) -> None:
    assert type(from_rpc(FailedCall(code))) is kind


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK])
def test_only_what_may_pass_is_retryable(code: grpc.StatusCode) -> None:
    lasting = {
        "INVALID_ARGUMENT",
        "OUT_OF_RANGE",
        "NOT_FOUND",
        "ABORTED",
        "ALREADY_EXISTS",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "UNIMPLEMENTED",
    }
    assert from_rpc(FailedCall(code)).retryable == (code.name not in lasting)


def test_details_are_carried() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="source", description="give one")
    error = from_rpc(
        with_details(
            error_details_pb2.ErrorInfo(reason="NO_SOURCE", domain="x", metadata={"limit": "64"}),
            error_details_pb2.BadRequest(field_violations=[violation]),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        )
    )
    assert (error.reason, error.metadata, error.retry_after) == ("NO_SOURCE", {"limit": "64"}, 1.5)
    assert error.violations == (oc.Violation("source", "give one"),)
    assert str(error) == "told (source: give one)"


def test_a_trailer_that_cannot_be_read_hides_nothing_else() -> None:
    call = FailedCall(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\xff\xff"),))
    error = from_rpc(call)
    assert type(error) is oc.NotFoundError
    assert (str(error), error.reason) == ("gone", "")


def test_the_cause_is_kept() -> None:
    call = FailedCall(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(oc.NotFoundError) as caught, translated():
        raise call
    assert caught.value.__cause__ is call
