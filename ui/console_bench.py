"""How long a person waits for the worklist of a large ledger, measured in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from curbside.config import Config, save_config
from curbside.errors import MissingExtra, UserError
from curbside.router.ledger import open_ledger
from curbside.router.synthetic import fill
from curbside.ui.server import command_line

__all__ = ["ConsoleBench", "bench_console", "find_browser"]

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
_ROW = "[class*='st-key-cb-line-synthetic']"
#: How many cases the view has; another filter gives another number.
_TOTAL = "b.cb-num"
_PATIENCE_MS = 120_000


@dataclass(frozen=True)
class ConsoleBench:
    """Milliseconds until the worklist's rows are on the screen.

    Args:
        cold: the first visit after the server has started.
        first_paint: of each later visit, each in a browser without a cache.
        filters: of each choice of another status on an open page.
    """

    cases: int
    cold: float
    first_paint: tuple[float, ...]
    filters: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, medians beside."""
        return asdict(self) | {
            "first_paint_median": median(self.first_paint),
            "filter_median": median(self.filters),
        }


def find_browser() -> str:
    """A Chromium on the PATH, or the one that ``CURBSIDE_BROWSER`` names.  Raises UserError."""
    names = (os.environ.get("CURBSIDE_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((p for n in names if n and (p := shutil.which(n))), None)
    if found is None:
        raise UserError(
            "there is no Chromium on the PATH",
            hint="sudo apt-get install chromium, or set CURBSIDE_BROWSER to one",
        )
    return found


def bench_console(n: int, *, rounds: int = 5) -> ConsoleBench:
    """Fill a temporary ledger with n synthetic cases, start a console on it, and visit it.

    Raises:
        UserError: there is no browser.
        MissingExtra: Playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingExtra("measuring the console in a browser", "dev") from None
    browser_path = find_browser()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        home = Path(folder)
        save_config(Config(), home / "curbside.yaml")
        ledger = open_ledger(home, Config().stores.ledger)
        fill(ledger, n)
        ledger.close()
        browser = p.chromium.launch(executable_path=browser_path, args=list(_FLAGS))
        with _serving(home) as address:
            cold = _visit(browser, address)[0]
            visits = [_visit(browser, address) for _ in range(rounds)]
        browser.close()
    paints, filters = zip(*visits, strict=True)
    return ConsoleBench(n, cold, tuple(paints), tuple(t for some in filters for t in some))


@contextmanager
def _serving(home: Path) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        command_line(port),
        env=os.environ | {"CURBSIDE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + _PATIENCE_MS / 1000
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _visit(browser: Any, address: str) -> tuple[float, list[float]]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address)
    page.locator(_ROW).first.wait_for()
    paint = 1000 * (time.perf_counter() - start)
    filters = []
    for pill in ("Needs review", "Not analysed"):
        page.wait_for_timeout(500)
        before = page.locator(_TOTAL).first.inner_text()
        button = page.get_by_role("button", name=pill)
        start = time.perf_counter()
        button.click()
        page.wait_for_function(
            "([row, before]) => document.querySelector(row)?.innerText !== before",
            arg=[_ROW, before],
        )
        filters.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(300)
        button.click()
        page.wait_for_timeout(700)
    context.close()
    return paint, filters
