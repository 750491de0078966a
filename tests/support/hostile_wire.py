"""Hostile bytes for a running service: messages that are none, real ones spoilt, streams cut off, headers
without measure, and broken HTTP/2 below all that; with credentials and without.

Whatever comes, the answer must be a documented code, and never a fault of the service. What happens follows
from the seed; when exactly it meets the service does not.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from opportune_rulebase import to_archive
from opportune_service.adapters.grpc import errors
from opportune_service.adapters.grpc.server import SERVICES
from support.callers import bearer
from support.small_rulebase import small_rulebase

METHODS = [
    *(method for service in SERVICES.values() for method in service.methods),
    *health_pb2.DESCRIPTOR.services_by_name["Health"].methods,
]
REASONS = {reason: code for code, reason in errors._CODES.values()}
WITHOUT_REASON = frozenset(
    {
        *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE),
        *(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED),
    }
)
"""What gRPC itself answers."""
_OF_THE_CLIENT = "Internal error from Core"
"""What the client library itself says where a stream was refused while it was still being written to."""
OF_HEALTH = frozenset({grpc.StatusCode.NOT_FOUND})
"""What the health service says of a service that there is none of; its own code, not ours."""

_ARCHIVE = to_archive(small_rulebase())
_WORDS = (
    *("", "a", "sms", "mms-bundle", "smsc", "8613800000001", "460001234567890", "\0", "\u202e", "é" * 50),
    *("x" * 300, "../../etc/passwd", "' OR 1=1 --", "{{sub.age}}", "%s%n", "0" * 64, "-1", "NaN"),
)
_BYTES = (
    *(b"", b"{}", b'{"size_kb": 80}', b'{"size_kb": 1e999}', b"[" * 5_000, b"\x81\xa7size_kb\xcc\x50"),
    *(b'{"size_kb": "' + b"9" * 20_000 + b'"}', b"\xff\xfe", _ARCHIVE),
)
_INTEGERS = (0, 1, -1, 2, 1_000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))


class ViolationError(AssertionError):
    """The service answered what it must not, or does not serve any more."""


class HostileWire:
    """Does one hostile thing after the other to the service at `address`. `tokens`: of callers, by name."""

    def __init__(self, address: str, tokens: Mapping[str, str], seed: str) -> None:
        self._address = address
        self._random = random.Random(seed)
        self._shown = [(), bearer("opp_" + "A" * 43), *map(bearer, tokens.values())]
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_metadata_size", 1 << 20)]
        )
        self.seen: dict[str, int] = {}
        """How often calls ended with which code."""

    async def close(self) -> None:
        await self._channel.close()

    async def once(self) -> None:
        """One hostile thing. Raises `ViolationError`."""
        await self._random.choices((self._call, self._cut, self._raw), (8, 3, 2))[0]()

    # -- calls ------------------------------------------------------------------------------------

    async def _call(self) -> None:
        """Whole calls: the messages and headers are what is wrong, if anything is."""
        method = self._random.choice(METHODS)
        count = self._random.choice((1, 1, 2, 5)) if method.client_streaming else 1
        messages = [self._bytes(method.input_type) for _ in range(count)]
        made = self._begin(method, iter(messages) if method.client_streaming else messages[0])
        try:
            if method.server_streaming:
                for _ in range(5):
                    if await made.read() is grpc.aio.EOF:
                        break
                made.cancel()
            else:
                await made
        except grpc.aio.AioRpcError as error:
            self._judge(method, error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._note("CANCELLED")  # the library's word for a call that ended so
        self._note("calls")

    async def _cut(self) -> None:
        """Streams that end in the middle, and calls that nobody waits for."""
        method = self._random.choice(METHODS)
        sent, over = asyncio.Event(), asyncio.Event()

        async def some() -> AsyncIterator[bytes]:
            for _ in range(self._random.randrange(4)):
                yield self._bytes(method.input_type)
            sent.set()
            await over.wait()

        if method.client_streaming:
            made = self._begin(method, some())
            with suppress(TimeoutError):  # a call that was refused takes no more
                async with asyncio.timeout(0.5):
                    await sent.wait()
        else:
            made = self._begin(method, self._bytes(method.input_type))
            await asyncio.sleep(0)
        made.cancel()
        over.set()
        self._note("cut off")

    def _begin(self, method: MethodDescriptor, said: Any) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kinds = (
            "stream" if each else "unary" for each in (method.client_streaming, method.server_streaming)
        )
        timeout = self._random.choice((0.001, 0.05, 1.0, 1.0))
        metadata = (*self._random.choice(self._shown), *self._headers())
        return getattr(self._channel, "_".join(kinds))(path)(said, metadata=metadata, timeout=timeout)

    def _headers(self) -> Sequence[tuple[str, Any]]:
        some = self._random
        return some.choice(
            (
                (),
                (),
                (),
                (("traceparent", "00-" + "f" * 32 + "-" + "0" * 16 + "-zz"),),
                (("traceparent", "x" * 4_000),),
                (("authorization", f"Bearer {'y' * 3_000}"),),
                (("authorization", "Bearer a"), ("authorization", "Bearer b")),
                (("odd-bin", some.randbytes(2_000)),),
                tuple((f"h{number}", "v" * 50) for number in range(60)),
                (("long", "v" * 200_000),),
            )
        )

    def _judge(self, method: MethodDescriptor, error: grpc.aio.AioRpcError) -> None:
        code = error.code()
        if error.details() == _OF_THE_CLIENT:
            return
        self._note(code.name)
        packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        if packed is None:
            allowed = WITHOUT_REASON | (OF_HEALTH if "health" in method.full_name else frozenset())
            if code not in allowed:
                raise ViolationError(f"{method.full_name} answered {code.name}: {error.details()}")
            return
        info = error_details_pb2.ErrorInfo()
        for detail in status_pb2.Status.FromString(packed).details:
            detail.Unpack(info)
        if REASONS.get(info.reason) is not code:
            raise ViolationError(
                f"{method.full_name} answered {code.name}, {info.reason}: {error.details()}"
            )

    def _note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # -- messages ---------------------------------------------------------------------------------

    def _bytes(self, descriptor: Descriptor) -> bytes:
        """A message of this type, or something like it."""
        some = self._random
        if some.random() < 0.15:
            return some.randbytes(some.choice((1, 2, 10, 100, 5_000)))
        data = self._message(descriptor, 0).SerializeToString()
        for _ in range(some.choice((0, 0, 1, 1, 3))):
            data = self._spoilt(data)
        return data

    def _spoilt(self, data: bytes) -> bytes:
        some = self._random
        at = some.randrange(len(data) + 1)
        to = min(len(data), at + some.randrange(1, 20))
        return some.choice(
            (
                data[:at],
                data[:at] + data[to:],
                data[:at] + data[at:to] * 3 + data[to:],
                data[:at] + some.randbytes(to - at) + data[to:],
                data[:at] + b"\xff\xff\xff\xff\x0f" + data[at:],
                data + some.randbytes(5),
            )
        )

    def _message(self, descriptor: Descriptor, depth: int) -> Message:
        some = self._random
        made: Any = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if some.random() < 0.3 or (field.message_type is not None and depth > 3):
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.message_type is not None:
                into = getattr(made, field.name)
                if field.is_repeated:
                    for _ in range(some.randrange(3)):
                        into.add().CopyFrom(self._message(field.message_type, depth + 1))
                else:
                    into.CopyFrom(self._message(field.message_type, depth + 1))
            elif field.is_repeated:
                getattr(made, field.name).extend(self._value(field) for _ in range(some.randrange(3)))
            else:
                setattr(made, field.name, self._value(field))
        return made  # type: ignore[no-any-return]

    def _value(self, field: FieldDescriptor) -> Any:
        some = self._random
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return some.choice(_WORDS)
            case FieldDescriptor.TYPE_BYTES:
                chosen = some.choice(_BYTES)
                return self._spoilt(chosen) if some.random() < 0.5 else chosen
            case FieldDescriptor.TYPE_BOOL:
                return some.random() < 0.5
            case FieldDescriptor.TYPE_ENUM:
                return some.choice((0, 1, 2, 3, 99, -1))
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return some.choice((0.0, -1.0, 0.5, 1e308, float("nan"), float("inf")))
            case FieldDescriptor.TYPE_INT32 | FieldDescriptor.TYPE_SINT32:
                return some.choice([each for each in _INTEGERS if -(2**31) <= each < 2**31])
            case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_FIXED32:
                return some.choice([each for each in _INTEGERS if 0 <= each < 2**32])
            case FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED64:
                return some.choice([each for each in _INTEGERS if each >= 0])
        return some.choice(_INTEGERS)

    # -- below gRPC -------------------------------------------------------------------------------

    async def _raw(self) -> None:
        """A connection that does not speak as it should. It may be cut, or answered."""
        host, _, port = self._address.rpartition(":")
        talk = _raw_talk(self._random, self._bytes, self._random.choice(self._shown))
        name, content = self._random.choice(list(talk.items()))
        self._note("raw")
        reader, writer = await asyncio.open_connection(host, int(port))
        answer = b""
        with suppress(OSError, TimeoutError):
            size = self._random.choice((50, 1_000, 100_000))
            for start in range(0, len(content), size):
                writer.write(content[start : start + size])
                await writer.drain()
            async with asyncio.timeout(0.2):
                while got := await reader.read(65_536):
                    answer += got
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        # As far as it can be read without a decoder: the first one of a connection is.
        for status in re.findall(rb"grpc-status[\x01\x02](\d{1,2})", answer):
            self._note(f"{name}: {status.decode()}")
            if status == b"2":
                raise ViolationError(f"{name}: UNKNOWN")


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
_END_STREAM, _END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, content: bytes = b"", length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


def _header(name: bytes, value: bytes) -> bytes:
    """A literal header field without indexing (RFC 7541, 6.2.2), texts as they are."""
    return b"\0" + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes((len(value),)) + value
    rest, out = len(value) - 127, b"\x7f"
    while rest >= 0x80:
        out += bytes((rest & 0x7F | 0x80,))
        rest >>= 7
    return out + bytes((rest,)) + value


def _raw_talk(
    some: random.Random, message: Callable[[Descriptor], bytes], shown: Sequence[tuple[str, str]]
) -> dict[str, bytes]:
    """What to send on a connection, by what is wrong with it."""
    method = some.choice(METHODS)
    path = f"/{method.containing_service.full_name}/{method.name}".encode()
    body = message(method.input_type)
    start = _PREFACE + _frame(_SETTINGS, 0, 0)

    def request(**changes: bytes) -> bytes:
        fields = {
            "_method": b"POST",
            "_scheme": b"http",
            "_path": path,
            "_authority": b"localhost",
            "te": b"trailers",
            "content-type": b"application/grpc",
            **{name: value.encode() for name, value in shown},
        } | {name.replace("__", "-"): value for name, value in changes.items()}
        block = b"".join(
            _header(name.replace("_", ":").encode(), value) for name, value in fields.items() if value
        )
        return _frame(_HEADERS, _END_HEADERS, 1, block)

    def sent(content: bytes, head: bytes = request()) -> bytes:
        return start + head + _frame(_DATA, _END_STREAM, 1, content[:16_000])

    def prefixed(content: bytes, flag: int = 0, length: int | None = None) -> bytes:
        return bytes((flag,)) + (len(content) if length is None else length).to_bytes(4, "big") + content

    whole = prefixed(body[:10_000])
    return {
        "no HTTP/2": some.randbytes(some.choice((1, 100, 10_000))),
        "HTTP/1": b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n",
        "TLS where there is none": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + some.randbytes(500),
        "half a preface": _PREFACE[: some.randrange(len(_PREFACE))],
        "noise after the preface": start + some.randbytes(5_000),
        "a frame of a length that it has not": start + _frame(_DATA, 0, 1, b"x", 16_000),
        "a frame too long": start + _frame(_DATA, 0, 1, b"", (1 << 24) - 1) + bytes(20_000),
        "data without a call": start + _frame(_DATA, _END_STREAM, 1, whole),
        "an even stream": start + _frame(_HEADERS, _END_HEADERS, 2, b""),
        "headers that are none": start + _frame(_HEADERS, _END_HEADERS, 1, some.randbytes(300)),
        "headers without end": start
        + _frame(_HEADERS, 0, 1, b"")
        + b"".join(_frame(_CONTINUATION, 0, 1, _header(b"a", b"b" * 100)) for _ in range(500)),
        "a continuation of nothing": start + _frame(_CONTINUATION, _END_HEADERS, 1, b""),
        "settings of odd length": start + _frame(_SETTINGS, 0, 0, b"12345"),
        "settings again and again": start + _frame(_SETTINGS, 0, 0) * 2_000,
        "pings again and again": start + _frame(_PING, 0, 0, b"12345678") * 2_000,
        "a window of nothing": start + _frame(_WINDOW, 0, 0, bytes(4)),
        "a window too large": start + _frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 3,
        "a promise": start + _frame(_PUSH, _END_HEADERS, 1, bytes(4)),
        "goodbye": start + request() + _frame(_GOAWAY, 0, 0, bytes(8)) + _frame(_DATA, 0, 1, whole),
        "opened and reset": start
        + b"".join(
            _frame(_HEADERS, _END_HEADERS, number, request()[9:]) + _frame(_RST, 0, number, bytes(4))
            for number in range(1, 400, 2)
        ),
        "another content type": sent(whole, request(content__type=b"application/json")),
        "no content type": sent(whole, request(content__type=b"")),
        "no path": sent(whole, request(_path=b"")),
        "a path of nothing": sent(whole, request(_path=b"/")),
        "a method there is not": sent(whole, request(_path=path + b"X")),
        "another verb": sent(whole, request(_method=b"GET")),
        "a deadline that is none": sent(whole, request(grpc__timeout=b"soon")),
        "an encoding there is not": sent(prefixed(body[:9_000], 1), request(grpc__encoding=b"rot13")),
        "compressed it is not": sent(prefixed(body[:9_000], 1), request(grpc__encoding=b"gzip")),
        "a flag there is not": sent(prefixed(body[:9_000], 77)),
        "a message longer than said": sent(prefixed(body[:9_000], 0, 1)),
        "a message shorter than said": sent(prefixed(body[:9_000], 0, 0xFFFFFFFF)),
        "no message": sent(b""),
        "two messages": sent(whole + whole),
        "half a message, and silence": start + request() + _frame(_DATA, 0, 1, whole[: len(whole) // 2]),
    }
