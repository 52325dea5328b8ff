"""Writes down whatever a Python process does on the network beyond loopback; Python imports it by its name at start.

By hand, for any command and all that it starts:

    mkdir seen
    PYTHONPATH=$PWD/tests/loopback LOOPBACK_LOG=$PWD/seen csr run; cat seen/outside.jsonl

In the folder `LOOPBACK_LOG` (nothing is done without it) are then: `processes.jsonl`, a line for each process that was
watched; `outside.jsonl`, a line for each look-up of a name, each connection, each datagram sent and each address bound
that is not loopback, with the process, its command line and the calls that led there; `own_name.jsonl`, look-ups of
this machine's own name that /etc/hosts answers. Sockets of native code (hf_xet, grpc) are not seen.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

CALLS = 30  # of the stack, the innermost
ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}  # (socket, address)
NAMED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}  # (name, ...)


def install(folder: Path) -> None:
    """Watch this process and those forked from it; those it starts anew import this file again."""
    own = {socket.gethostname()} & _hosts()
    _write(folder / "processes.jsonl", {})

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ADDRESSED:
            # Bound to no address is bound to all of them.
            host = _address(*arguments, empty="0.0.0.0" if event == "socket.bind" else "")
        elif event in NAMED:
            host = _text(arguments[0])
        elif event == "socket.getnameinfo":
            host = _text(arguments[0][0])
        else:
            return
        if _stays_here(host):
            return
        stack = [f"{call.filename}:{call.lineno} {call.name}" for call in traceback.extract_stack(limit=CALLS + 1)[:-1]]
        file = "own_name.jsonl" if event in NAMED and host in own else "outside.jsonl"
        _write(folder / file, {"event": event, "host": host, "stack": stack})

    sys.addaudithook(hook)


def _address(source: socket.socket, address: Any, empty: str) -> str:
    """The host in a socket's address, `empty` where that names none; "" where it is no internet address."""
    if address is None or source.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    return _text(address[0]) or empty


def _text(host: str | bytes | None) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes) else host or ""


def _stays_here(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _hosts() -> set[str]:
    """Names that /etc/hosts knows."""
    try:
        lines = Path("/etc/hosts").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {name for line in lines for name in line.partition("#")[0].split()[1:]}


def _write(file: Path, row: dict[str, Any]) -> None:
    line = json.dumps({"pid": os.getpid(), "command": sys.orig_argv, **row}) + "\n"
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())  # one write: lines of several processes do not mix
    finally:
        os.close(handle)


if folder := os.environ.get("LOOPBACK_LOG"):
    install(Path(folder))
