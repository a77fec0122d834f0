"""How the console's server is started; loads nothing of Streamlit itself."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path

from curbside.errors import UserError

__all__ = ["command_line", "must_be_free"]


def command_line(port: int, address: str = "127.0.0.1", *, headless: bool = True) -> list[str]:
    """The server's command; look and privacy are in ``.streamlit/config.toml`` beside it."""
    return [
        *(sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("served.py"))),
        *("--server.port", str(port), "--server.address", address),
        *("--server.headless", str(headless).lower()),
        # also where the user's own settings say otherwise
        *("--browser.gatherUsageStats", "false"),
    ]


def must_be_free(port: int, address: str) -> None:
    """Refuse what the server could not listen on, before it is started.

    Raises:
        UserError: the port is taken or not allowed, or the address is none of this machine.
    """
    hint = "curbside console --port 8600, or any other that is free"
    try:
        # as the server does: what has just ended on the port does not hold it
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
    except OSError as e:
        said = f"port {port} of {address} cannot be listened on: {e.strerror}"
        if e.errno == errno.EADDRINUSE:
            said = f"port {port} of {address} is taken; a console may run there already"
        elif isinstance(e, socket.gaierror) or e.errno == errno.EADDRNOTAVAIL:
            said = f"{address!r} is no address of this machine"
            hint = "curbside console --address 127.0.0.1"
        raise UserError(said, hint=hint) from None
