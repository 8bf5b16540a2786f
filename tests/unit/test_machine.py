"""What is free on this machine."""

from __future__ import annotations

import socket

from zaphod import machine


def test_ports_in_a_row_are_all_free() -> None:
    """One listener anywhere in a row rules it out; when every row has one, the lowest is as good as another."""
    # Apart from those that the system gives to outgoing connections.
    low = machine.free_ports(20_000, 29_900, num=20)
    with socket.create_server(("127.0.0.1", low + 9)):
        assert {machine.free_ports(low, low + 20, num=10) for _ in range(20)} == {low + 10}
        with socket.create_server(("127.0.0.1", low + 10)):
            assert machine.free_ports(low, low + 20, num=10) == low


def test_a_port_that_is_meant_for_something_else_is_not_free() -> None:
    """Though nothing listens on it yet."""
    meant = range(20_000, 29_900)

    assert machine.free_port(besides=meant) not in meant
