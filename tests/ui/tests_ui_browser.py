"""A console over phantoms and a browser to drive it: fixtures of ``test_browser``.

``conftest`` makes them known.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from typer.testing import CliRunner

from curbside.cases import read_cases
from curbside.cli import app
from curbside.config import load_config
from curbside.router.api import Router
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.workspace import Workspace
from curbside.study import Study
from curbside.ui.console_bench import find_browser

#: Six tune cases of a common modality: an agent's chance of being right has an interval there,
#: and proves no reader; held for that, none would be answered.
SCALE = "0.25"
CONFIG = """
fleet: {specialist_minimum: 12, shots: 4}
policy: {kind: tier, minimum_support: 12, hold_unproven: false}
"""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SHOTS = os.environ.get("CURBSIDE_SCREENSHOTS")
#: In milliseconds; the machine may be busy.
PATIENCE = 60_000
READER = "Dr. Phantom"
#: Nothing fades or moves any more, but for what never ends.
STILL = """() => document.getAnimations().every(
    (a) => a.playState !== "running" || a.effect?.getComputedTiming().endTime === Infinity
)"""


@dataclass
class Console:
    """A running console."""

    home: Path
    address: str
    process: subprocess.Popen[bytes]

    def ledger(self) -> Ledger:
        return open_ledger(self.home, "ledger.sqlite")


@pytest.fixture(scope="module")
def phantom_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves behind on a few phantoms, and their test cases in the ledger."""
    home = tmp_path_factory.mktemp("phantoms") / "home"
    home.mkdir()
    (home / "curbside.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURBSIDE_HOME", str(home))
        arguments = ["demo", "--phantoms", "--scale", SCALE, "--replicates", "100"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        (manifest,) = (home / "phantoms").rglob("manifest.csv")
        _fill(home, read_cases(manifest))
    return home


def _fill(home: Path, cases: Any) -> None:
    """The ledger anew, as if the cases had come in over some hours, with one cut image."""
    for path in home.glob("ledger.sqlite*"):
        path.unlink()
    now = datetime.now(UTC)
    studies = [
        replace(s, received_at=now - timedelta(minutes=6 * i))
        for i, s in enumerate(cases.take(cases.where(role="test")).studies())
    ]
    cut = home / "cut.png"
    cut.write_bytes(cases[0].image.read_bytes()[:400])
    cut_study = Study.from_image(cut, id="phantom-cut-0b1c2d3e4f5a")
    studies.append(replace(cut_study, received_at=now - timedelta(minutes=90)))
    router = Router(Workspace(home, load_config(home / "curbside.yaml")))
    router.read_batch(studies)
    router.close()


@pytest.fixture(scope="module")
def console(phantom_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    # asked for in a process of its own: tests open no socket
    ask = "import socket as s; a = s.socket(); a.bind(('127.0.0.1', 0)); print(a.getsockname()[1])"
    port = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()
    log = (tmp_path_factory.mktemp("console") / "log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from curbside.cli import main; main()", "console"),
            *("--port", port, "--reader", READER),
        ],
        env=os.environ | {"CURBSIDE_HOME": str(phantom_home), "CURBSIDE_DEBUG": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield Console(phantom_home, f"http://127.0.0.1:{port}", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield started
        started.close()


@dataclass
class Watched:
    """A page whose errors and requests are kept."""

    page: Page
    home: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def start(self) -> Page:
        """Open the console's first page; the server may still be starting."""
        end = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                self.page.goto(self.home)
                break
            except Exception:
                assert time.monotonic() < end, "the console did not start"
                time.sleep(0.3)
        self.errors.clear()  # of a server that was not there yet
        expect(self.page.locator("h1", has_text="Worklist")).to_be_visible()
        return self.page

    def open(self, name: str) -> Page:
        """Go to another page by the navigation."""
        self.page.get_by_test_id("stTopNavLink").filter(has_text=name).click()
        expect(self.page.locator(".cb-title", has_text=name)).to_be_visible()
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the script has run and nothing is drawn any more."""
        expect(self.page.get_by_test_id("stStatusWidget")).to_have_count(0)
        # stands where a part of the page is still being fetched
        expect(self.page.get_by_test_id("stSkeleton")).to_have_count(0)
        self.page.wait_for_timeout(350)
        self.page.wait_for_function(STILL)

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.page.mouse.move(640, 700)
            # where the pointer was and is, colours fade too
            self.settle()
            path = Path(SHOTS) / f"{name}.png"
            self.page.screenshot(path=path)
            _small(path)


def _small(path: Path) -> None:
    """256 colours, rare ones such as those of marks among them, and none far from what it was."""
    from PIL import Image, ImageChops

    with Image.open(path) as shot:
        whole = shot.convert("RGB")
    # by the most different colours first, not by the most frequent ones
    few = whole.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=8, dither=Image.Dither.NONE)
    off = ImageChops.difference(whole, few.convert("RGB")).getextrema()
    assert max(most for _, most in off) < 24, f"{path.name}: a colour is lost: {off}"
    few.save(path, optimize=True)


@pytest.fixture(params=["light"])
def watched(console: Console, browser: Browser, request: Any) -> Iterator[Watched]:
    """A browser window of 1280 × 720; fails the test on any error or request elsewhere."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 720}, color_scheme=request.param
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    window = Watched(context.new_page(), console.address)

    def only_here(route: Any) -> None:
        if route.request.url.startswith((console.address, "data:", "blob:")):
            route.continue_()
        else:
            window.outside.append(route.request.url)
            route.abort()

    context.route("**/*", only_here)
    window.page.on("pageerror", lambda e: window.errors.append(str(e)))
    window.page.on("console", lambda m: window.errors.append(m.text) if m.type == "error" else None)
    yield window
    context.close()
    assert window.errors == []
    assert window.outside == []


def both(test: Any) -> Any:
    """In light and in dark."""
    return pytest.mark.parametrize("watched", ["light", "dark"], indirect=True)(test)
