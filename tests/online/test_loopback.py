"""A server that is meant for this machine is heard on this machine alone."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from tests.conftest import Server, wait_for
from zaphod import machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def listening(server: Server) -> set[str]:
    """Where HAProxy does, with ports. While one takes over from another, both."""
    found: set[str] = set()
    for process in server.marked():
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            if machine.name_of(process) == "haproxy":
                sockets = process.net_connections("inet")
                found |= {f"{each.laddr.ip}:{each.laddr.port}" for each in sockets if each.status == psutil.CONN_LISTEN}
    return found


def test_haproxy_listens_on_this_machine_alone(server: Server) -> None:
    """Its page of statistics and its numbers too, which ask for no key."""
    wait_for(lambda: len(listening(server)) >= 4, what="HTTP, gRPC, statistics and numbers")

    assert {address.rpartition(":")[0] for address in listening(server)} == {"127.0.0.1"}
