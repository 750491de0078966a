"""Which roles open a method, as the contract says, and who calls. A method that names no role keeps the
server from starting."""

from __future__ import annotations

from contextvars import ContextVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from opportune.v1 import options_pb2

from opportune_service.app.access import Admission
from opportune_service.app.callers import Caller

ALL_ROLES = frozenset(options_pb2.Role.keys()) - {"ROLE_UNSPECIFIED"}

admission: ContextVar[Admission | None] = ContextVar("admission", default=None)
"""How the call that the running code works for was let in; None where callers are not listed."""


class MissingRolesError(Exception):
    """A method of the contract does not say who may call it."""


def roles_of(service: ServiceDescriptor) -> dict[str, frozenset[str]]:
    """Method name -> names of the roles that open it. Raises `MissingRolesError`."""
    return {method.name: _roles(method) for method in service.methods}


def _roles(method: MethodDescriptor) -> frozenset[str]:
    named = method.GetOptions().Extensions[options_pb2.roles].any_of
    if not named or options_pb2.ROLE_UNSPECIFIED in named:
        raise MissingRolesError(
            f"{method.full_name} names no role: give it the option (opportune.v1.roles) in the contract"
        )
    return frozenset(options_pb2.Role.Name(role) for role in named)


def caller_of(context: grpc.aio.ServicerContext[Message, Message]) -> Caller:
    """Who calls, and what they may touch. Where callers are not listed everybody may touch everything, and
    is called by the common name of the client's certificate, else ``anonymous``."""
    admitted = admission.get()
    if admitted is not None:
        return admitted.caller
    for name in context.auth_context().get("x509_common_name", ()):
        return Caller(name.decode("utf-8", "replace"), ALL_ROLES)
    return Caller("anonymous", ALL_ROLES)


def caller_name(context: grpc.aio.ServicerContext[Message, Message]) -> str:
    """Who calls, for the record."""
    return caller_of(context).name
