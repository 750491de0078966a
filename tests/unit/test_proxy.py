"""The proxy that breaks connections: each way to break them, seen from a client of an echo server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.proxy import LOOPBACK, Proxy, Way, proxy
from support.servers import until


@pytest.fixture
def heard() -> bytearray:
    """What the server was told, over all connections."""
    return bytearray()


@pytest.fixture
def wire(heard: bytearray) -> Iterator[Proxy]:
    """A proxy before a server that answers what it is told."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def echo(connection: socket.socket) -> None:
            with connection:
                try:
                    while said := connection.recv(65_536):
                        heard.extend(said)
                        connection.sendall(said)
                except ConnectionError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with proxy(listener.getsockname()[1]) as made:
            yield made
        listener.shutdown(socket.SHUT_RDWR)


def connect(wire: Proxy) -> socket.socket:
    return socket.create_connection((LOOPBACK, wire.port), timeout=10)


def read(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or all until the end."""
    found = b""
    while len(found) < size and (more := connection.recv(size - len(found))):
        found += more
    return found


def answers(connection: socket.socket) -> bool:
    connection.sendall(b"hello")
    return read(connection, 5) == b"hello"


def test_what_is_said_goes_there_and_back_and_its_end_too(wire: Proxy) -> None:
    large = bytes(range(256)) * 4_000
    with connect(wire) as connection:
        threading.Thread(target=connection.sendall, args=(large,)).start()
        assert read(connection, len(large)) == large
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert wire.accepted == 1


def test_cut_resets_connections_and_takes_new_ones(wire: Proxy) -> None:
    with connect(wire) as connection:
        assert answers(connection)
        wire.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(wire) as connection:
        assert answers(connection)


def test_refuse_takes_no_connections_until_it_is_healed(wire: Proxy) -> None:
    with connect(wire) as connection:
        assert answers(connection)
        wire.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(wire)
    wire.heal()
    with connect(wire) as connection:
        assert answers(connection)


def test_frozen_it_takes_everything_and_forwards_nothing_until_it_is_healed(wire: Proxy) -> None:
    with connect(wire) as old:
        assert answers(old)
        wire.freeze()
        with connect(wire) as new:
            for connection in (old, new):
                connection.sendall(b"hello")
                connection.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            wire.heal()
            for connection in (old, new):
                connection.settimeout(10)
                assert read(connection, 5) == b"hello"


def test_delay_holds_each_way_back(wire: Proxy) -> None:
    with connect(wire) as connection:
        assert answers(connection)
        wire.delay(0.1)
        begin = time.monotonic()
        assert answers(connection)
        assert time.monotonic() - begin >= 0.2


def test_halve_lets_the_first_half_through_and_cuts_once(wire: Proxy, heard: bytearray) -> None:
    with connect(wire) as connection:
        assert answers(connection)
        wire.halve(Way.TO_CLIENT)
        connection.sendall(b"there and halfway back")
        assert read(connection, 100) == b"there and h", "the end came early, in good order"
    with connect(wire) as connection:
        assert answers(connection)
        heard.clear()
        wire.halve(Way.TO_SERVER)
        connection.sendall(b"halfway there")
        until_cut(connection)
    # Each connection has a thread of its own: the next one must not overtake it.
    until(lambda: len(heard) > 0, "the server hears the half")
    with connect(wire) as connection:
        assert answers(connection)
    assert heard == b"halfwa" + b"hello"


def until_cut(connection: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        read(connection, 100)


def test_a_server_that_is_not_there_is_a_connection_that_is_reset() -> None:
    with proxy(1) as wire, pytest.raises(ConnectionResetError), connect(wire) as connection:
        connection.recv(1)
