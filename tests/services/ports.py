"""Ports for servers under test."""

import random
import socket


def free_port() -> int:
    """A port of loopback that nothing uses now; none of those that a system hands out itself, as to a Ray cluster."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
