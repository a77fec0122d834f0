"""How the console's server is started; loads nothing of Streamlit itself."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["command_line"]


def command_line(port: int, address: str = "127.0.0.1", *, headless: bool = True) -> list[str]:
    """The server's command; look and privacy are in ``.streamlit/config.toml`` beside it."""
    return [
        *(sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("served.py"))),
        *("--server.port", str(port), "--server.address", address),
        *("--server.headless", str(headless).lower()),
        # also where the user's own settings say otherwise
        *("--browser.gatherUsageStats", "false"),
    ]
