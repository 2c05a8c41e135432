"""Connections of a run's processes to the main process, made once at the start."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from barm.errors import UserError
from barm.processes import place

LOOPBACK = "127.0.0.1"
JOIN = 60.0  # seconds within which all must have connected
LONGEST = 1000  # bytes of a greeting
Share = Callable[[Any], Any]  # gives every process what the first one puts in


@dataclass(eq=False)
class Link:
    """A connection: socket, peer, the incomplete line received so far, seconds since the last sign of life."""

    socket: socket.socket
    rank: int
    place: str
    pid: int
    received: bytes = b""
    silent: float = 0.0


def accept(world: int, one_machine: bool, share: Share) -> list[Link]:
    """Accept the connections of all other processes."""
    links, token, until = list[Link](), secrets.token_hex(16), time.monotonic() + JOIN
    with _listener(one_machine) as listener:
        port = listener.getsockname()[1]
        share((port, token))
        while len(links) < world - 1:
            listener.settimeout(max(0.01, until - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                absent = sorted(set(range(1, world)) - {link.rank for link in links})
                raise UserError(
                    f"process {', '.join(map(str, absent))} of {world} did not connect to port {port} of "
                    f"{socket.gethostname()} within {JOIN:g} s: allow connections between the machines"
                ) from None
            with suppress(OSError, ValueError, TypeError):  # a stranger, who does not know the token
                connection.settimeout(5.0)
                known, rank, where, pid = json.loads(_read_line(connection))
                if secrets.compare_digest(str(known), token):
                    connection.sendall(json.dumps([place(), os.getpid()]).encode() + b"\n")
                    links.append(Link(connection, rank, where, pid))
                    continue
            connection.close()
    return links


def connect(rank: int, one_machine: bool, share: Share) -> Link:
    """Connect to the main process."""
    port, token = share(None)
    host = LOOPBACK if one_machine else os.environ["MASTER_ADDR"]
    try:
        connection = socket.create_connection((host, port), timeout=JOIN)
        connection.sendall(json.dumps([token, rank, place(), os.getpid()]).encode() + b"\n")
        where, pid = json.loads(_read_line(connection))
    except (OSError, ValueError) as error:
        raise UserError(
            f"process {rank} cannot connect to the first one at {host}:{port} ({error}): allow connections between the "
            "machines"
        ) from None
    return Link(connection, 0, where, pid)


def _listener(one_machine: bool) -> socket.socket:
    if one_machine:
        return socket.create_server((LOOPBACK, 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _read_line(connection: socket.socket) -> bytes:
    """Read a line and nothing after it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST:
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def end_stopped(link: Link) -> None:
    """Kill a suspended process of this machine, which cannot end itself.

    One on another machine ends when it wakes up.
    """
    if link.place == place():
        with suppress(OSError):
            os.kill(link.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
