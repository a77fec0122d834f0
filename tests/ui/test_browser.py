"""The console in a real browser over phantoms: triage by keyboard, override, upload, sliders.

Everything goes to this machine alone, no page logs an error, and with ``CURBSIDE_SCREENSHOTS``
naming a folder the pictures of docs/console.md are taken on the way (``make screenshots``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, WebSocketRoute, expect
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from tests_ui_browser import READER, Console, both

from curbside.config import load_config
from curbside.readings import Status
from curbside.router.api import Router
from curbside.router.review import Kind
from curbside.router.worklist import View, count, page
from curbside.router.workspace import Workspace
from curbside.study import Study
from curbside.ui.worklist_rows import SORT_WORDS

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def _read_well(console: Console) -> str:
    """An answered case of which it is known, with intervals, how well each agent reads its like."""
    ledger = console.ledger()
    answered = page(ledger, View(waiting=False, status=("answered",)), limit=100).entries
    known = [e.study for e in answered if ledger.record(e.study).competence]
    ledger.close()
    return known[0]


@both
def test_every_page_is_drawn_in_both_modes(watched, console, request):
    mode = "dark" if "dark" in request.node.name else "light"
    page = watched.start()
    watched.shoot(f"worklist-{mode}")
    ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (sum(int(x) for x in ground[4:-1].split(",")) < 200) == (mode == "dark")
    page.get_by_role("link", name="phantom-").first.click()
    expect(page.locator(".cb-outcome")).to_be_visible()
    expect(page.locator(".stage img")).to_be_visible()
    watched.shoot(f"case-{mode}")
    page.goto(f"{console.address}/case?case={_read_well(console)}")
    expect(page.locator(".cb-outcome")).to_be_visible()
    expect(page.locator(".stage img")).to_be_visible()
    expect(page.get_by_text("with 95 % intervals")).to_be_visible()
    for tab, name in (("Why this route", "why"), ("Nearest cases", "nearest")):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("tab", name=tab).scroll_into_view_if_needed()
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(600)
        watched.shoot(f"{name}-{mode}")
    watched.open("Policy lab")
    expect(page.get_by_text("Verdict of this run")).to_be_visible()
    for tab in ("Table", "Curves", "Calibration", "Regret"):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(500)
        if tab == "Curves":
            expect(page.locator(".js-plotly-plot").first).to_be_visible()
            watched.shoot(f"curves-{mode}")
    watched.open("Fleet & index")
    page.get_by_role("tab", name="Map").click()
    expect(page.get_by_text("newest cases of the ledger")).to_be_visible()
    page.wait_for_timeout(800)
    watched.shoot(f"map-{mode}")
    watched.open("Upload")


def test_every_address_opens_and_opens_again(watched, console):
    """A link that somebody was sent, and a page that is loaded anew, log no error."""
    watched.start()
    page_ = watched.page
    ledger = console.ledger()
    case = page(ledger, View(), limit=1).entries[0].study
    ledger.close()
    below = {"upload": "Upload", "lab": "Policy lab", "fleet": "Fleet & index"}
    for address, title in below.items():
        page_.goto(f"{console.address}/{address}")
        for _ in range(2):
            expect(page_.locator(".cb-title", has_text=title)).to_be_visible()
            watched.settle()
            page_.reload()
    page_.goto(f"{console.address}/case?case={case}")
    for _ in range(2):
        expect(page_.locator(".cb-id").first).to_have_text(case)
        expect(page_.locator(".stage img")).to_be_visible()
        watched.settle()
        page_.reload()
    page_.goto(f"{console.address}/worklist?waiting=false")
    expect(page_.locator("h1", has_text="Worklist")).to_be_visible()
    watched.settle()
    assert page_.url == f"{console.address}/?waiting=false"
    page_.go_back()
    expect(page_.locator(".cb-id").first).to_have_text(case)


def test_a_view_of_the_worklist_is_its_address(watched, console):
    """A choice goes into the address; loaded anew, or a step back, the address is the view."""
    page_ = watched.start()
    shown = page_.locator("b.cb-num").first

    def total(view: View) -> str:
        ledger = console.ledger()
        found = count(ledger, view)
        ledger.close()
        return f"{found.waiting if view.waiting else found.total:,}"

    every = total(View(waiting=False))
    answered = total(View(waiting=False, status=("answered",)))
    assert answered != every
    page_.get_by_text("Waiting only").click()
    expect(shown).to_have_text(every)
    page_.get_by_role("button", name="Answered").click()
    expect(shown).to_have_text(answered)
    watched.settle()
    assert page_.url == f"{console.address}/?status=answered&waiting=false"
    page_.reload()
    expect(shown).to_have_text(answered)
    watched.settle()
    assert page_.url == f"{console.address}/?status=answered&waiting=false"
    page_.go_back()
    expect(shown).to_have_text(every)
    page_.goto(f"{console.address}/?waiting=false&status=answered&sort=confidence")
    expect(shown).to_have_text(answered)
    expect(page_.get_by_role("combobox", name="Order")).to_have_value(SORT_WORDS["confidence"])


def test_ten_cases_are_triaged_by_keyboard_alone(watched, console):
    ledger = console.ledger()
    before = count(ledger, View(waiting=True)).waiting
    assert before >= 10
    page_ = watched.start()
    watched.settle()
    page_.keyboard.press("t")
    expect(page_.locator(".cb-outcome")).to_be_visible()
    seen = []
    for _ in range(10):
        watched.settle()
        case = page_.locator(".cb-id").first.inner_text()
        assert case not in seen
        seen.append(case)
        agree = page_.get_by_role("button", name="Agree")
        page_.keyboard.press("a" if agree.count() else "1")
        expect(page_.locator(".cb-done")).to_contain_text(case)
    for case in seen:
        (event,) = ledger.events(case)
        assert event.who == READER and event.kind in (Kind.AGREE, Kind.ANSWER)
        assert ledger.get(case).status is Status.ANSWERED
    assert count(ledger, View(waiting=True)).waiting == before - 10
    ledger.close()


def test_an_override_by_keyboard(watched, console):
    ledger = console.ledger()
    answered = page(ledger, View(status=("answered",), sort="confidence"), limit=50).entries
    case = next(e.study for e in answered if e.truth is None)
    told = ledger.get(case).answer
    page_ = watched.start()
    page_.get_by_text("Waiting only").click()
    page_.get_by_placeholder("Search ids").fill(case)
    page_.keyboard.press("Enter")
    page_.get_by_role("link", name=case).click()
    expect(page_.locator(".cb-outcome")).to_be_visible()
    watched.settle()
    digit = "1" if ledger.record(case).options[0] != told else "2"
    page_.keyboard.press(digit)
    expect(page_.get_by_text("why?")).to_be_visible()
    watched.shoot("override-light")
    watched.settle()
    page_.keyboard.press("2")
    expect(page_.locator(".cb-done")).to_contain_text("Overridden")
    (event,) = ledger.events(case)
    assert (event.kind, event.code, event.who) == (Kind.OVERRIDE, "wrong_modality", READER)
    assert ledger.get(case).answer == event.answer != told
    ledger.close()


class Line:
    """The line from the server to a page; ``shut``, what the server says is kept back."""

    def __init__(self, page: Page) -> None:
        self.shut = False
        self._kept: list[tuple[WebSocketRoute, str | bytes]] = []
        page.route_web_socket("**/_stcore/stream", self._between)

    def _between(self, to_page: WebSocketRoute) -> None:
        def said(message: str | bytes) -> None:
            if self.shut:
                self._kept.append((to_page, message))
            else:
                to_page.send(message)

        server = to_page.connect_to_server()
        server.on_message(said)
        to_page.on_message(server.send)

    def open(self) -> None:
        self.shut = False
        for to_page, message in self._kept:
            to_page.send(message)
        self._kept.clear()


def test_what_is_typed_while_the_list_is_drawn_again_stays(watched, console):
    """On a slow line or a busy server: a choice is on its way, and a person types on."""
    ledger = console.ledger()
    case = page(ledger, View(status=("answered",)), limit=1).entries[0].study
    ledger.close()
    line = Line(watched.page)
    page_ = watched.start()
    watched.settle()
    search = page_.get_by_placeholder("Search ids")
    line.shut = True
    page_.get_by_text("Waiting only").click()
    # the server has drawn it, and named its address; neither has come yet
    page_.wait_for_timeout(1500)
    search.fill(case)
    page_.keyboard.press("Enter")
    page_.wait_for_timeout(1500)
    line.open()
    expect(page_.get_by_role("link", name="phantom-")).to_have_count(1)
    watched.settle()
    expect(search).to_have_value(case)
    assert page_.url == f"{console.address}/?q={case}&waiting=false"
    # not yet entered, it stays in the field, and the field has the focus
    search.fill("")
    page_.keyboard.press("Enter")
    page_.wait_for_url("**/?waiting=false")
    watched.settle()
    line.shut = True
    page_.get_by_text("Reverse").click()
    search.click()
    page_.keyboard.type("phantom-")
    page_.wait_for_timeout(1500)
    line.open()
    page_.wait_for_url("**down=true*")
    watched.settle()
    page_.keyboard.type("cut")
    expect(search).to_have_value("phantom-cut")
    page_.keyboard.press("Enter")
    page_.wait_for_url("**/?q=phantom-cut&waiting=false&down=true")


def test_a_key_pressed_twice_is_of_the_case_that_was_seen(watched, console):
    """The second comes before the next case is drawn: that is said, and nothing else changes."""
    ledger = console.ledger()
    waiting = page(ledger, View(waiting=True, sort="study"), limit=50).entries
    first, second, *_ = (e.study for e in waiting if e.provisional)
    line = Line(watched.page)
    page_ = watched.start()
    page_.goto(f"{console.address}/case?sort=study&case={first}")
    expect(page_.locator(".cb-id").first).to_have_text(first)
    watched.settle()
    before = len(ledger.events(first))
    line.shut = True
    for _ in range(2):
        page_.keyboard.press("a")
        page_.wait_for_timeout(1500)
    line.open()
    expect(page_.get_by_text("Nothing was recorded")).to_be_visible()
    watched.settle()
    expect(page_.locator(".cb-id").first).to_have_text(first)
    assert f"case={first}" in page_.url
    assert len(ledger.events(first)) == before + 1 and not ledger.events(second)
    ledger.close()
    # images of the next case, which the server left again before the browser asked for them
    watched.errors[:] = [e for e in watched.errors if "404" not in e]


def test_a_note_stands_in_the_ledger_however_fast_the_reason_is_clicked(watched, console):
    ledger = console.ledger()
    answered = page(ledger, View(status=("answered",), sort="p_value"), limit=50).entries
    case = next(e.study for e in answered if e.truth is None)
    page_ = watched.start()
    page_.goto(f"{console.address}/case?case={case}")
    expect(page_.locator(".cb-outcome")).to_be_visible()
    watched.settle()
    page_.keyboard.press("1" if ledger.record(case).options[0] != ledger.get(case).answer else "2")
    note = page_.get_by_placeholder("optional, no names")
    expect(note).to_be_visible()
    watched.settle()
    note.fill("seen on 1 of 2 views")
    page_.get_by_role("button", name="Wrong finding").click()
    expect(page_.locator(".cb-done")).to_contain_text(case)
    (event,) = ledger.events(case)
    assert (event.code, event.text) == ("wrong_finding", "seen on 1 of 2 views")
    ledger.close()


def test_a_dicom_folder_is_uploaded_and_routed(watched, console, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(str(get_testdata_file(name, download=False)), folder / name)
    (folder / "notes.txt").write_text("no image")
    page_ = watched.start()
    watched.open("Upload")
    page_.get_by_role("radio", name="Folder").click()
    watched.settle()
    page_.locator("input[webkitdirectory]").set_input_files(folder)
    route = page_.get_by_role("button", name="Route 3 files")
    expect(route).to_be_enabled()
    route.click()
    expect(page_.get_by_text("2 studies routed")).to_be_visible()
    watched.shoot("uploaded-light")
    page_.get_by_test_id("stExpander").click()
    expect(page_.get_by_text("wrong type")).to_be_visible()
    page_.get_by_test_id("stPageLink-NavLink").first.click()
    expect(page_.locator(".stage img")).to_be_visible()
    # window and inversion are drawn by the server: other values give another picture
    shown = page_.locator(".stage img").get_attribute("src")
    page_.get_by_text("Invert").click()
    expect(page_.locator(".stage img")).not_to_have_attribute("src", shown or "")
    case = page_.locator(".cb-id").first.inner_text()
    ledger = console.ledger()
    assert ledger.get(case).status in (Status.ANSWERED, Status.NEEDS_REVIEW)
    ledger.close()


def test_sliders_of_the_lab_replay_at_once(watched):
    page_ = watched.start()
    watched.open("Policy lab")
    expect(page_.get_by_text("No case moves")).to_be_visible()
    floor = page_.get_by_role("slider").nth(1)
    floor.focus()
    for _ in range(60):
        page_.keyboard.press("ArrowRight")
    expect(page_.locator(".cb-legend")).to_be_visible()
    expect(page_.get_by_text("served ", exact=False).first).to_be_visible()
    watched.shoot("whatif-light")


def test_a_look_at_another_case_and_zoom(watched):
    page_ = watched.start()
    page_.get_by_role("link", name="phantom-").first.click()
    stage = page_.locator(".stage")
    expect(stage.locator("img")).to_be_visible()
    stage.get_by_title("Larger").click()
    expect(stage.locator(".bar span")).to_have_text("140 %")
    stage.get_by_title("Whole image").click()
    expect(stage.locator(".bar span")).to_have_text("100 %")


def _stack(home: Path, folder: Path) -> str:
    """A study of two series, seven CT and two MR images, with a cut one in the middle; its id."""
    folder.mkdir()
    study = generate_uid()
    for number, (name, n) in enumerate((("CT_small.dcm", 7), ("MR_small.dcm", 2)), 1):
        series = generate_uid()
        for i in range(n):
            ds = dcmread(str(get_testdata_file(name, download=False)))
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
            ds.SeriesNumber, ds.InstanceNumber = number, i + 1
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            ds.ImagePositionPatient = [0, 0, float(i)]
            ds.PixelData = np.roll(ds.pixel_array, 5 * i, axis=1).tobytes()
            ds.save_as(folder / f"{number}-{i}.dcm")
    router = Router(Workspace(home, load_config(home / "curbside.yaml")))
    (record,) = router.read_batch([Study.from_dicom(folder)])
    router.close()
    middle = folder / "1-3.dcm"
    middle.write_bytes(middle.read_bytes()[:9000])
    return record.case


def test_the_wheel_leafs_and_with_ctrl_zooms(watched, console, tmp_path):
    case = _stack(console.home, tmp_path / "stack")
    page_ = watched.start()
    page_.goto(f"{console.address}/case?case={case}")
    stage = page_.locator(".stage")
    place, zoom = stage.locator(".place"), stage.locator(".bar span")
    # the fourth is cut
    expect(place).to_have_text("Series 1 of 2 · CT · image 3 of 7 · 1 cannot be shown")
    expect(page_.get_by_text("Images that cannot be shown: series 1: 4")).to_be_visible()
    watched.settle()
    watched.shoot("stack-light")
    stage.hover()
    page_.mouse.wheel(0, 100)
    expect(place).to_have_text("Series 1 of 2 · image 4 of 7 · 1 cannot be shown")
    expect(stage.locator(".problem")).to_contain_text("cannot be shown")
    page_.mouse.wheel(0, 200)
    expect(place).to_have_text("Series 1 of 2 · CT · image 6 of 7 · 1 cannot be shown")
    page_.mouse.wheel(0, 900)
    expect(place).to_have_text("Series 1 of 2 · CT · image 7 of 7 · 1 cannot be shown")
    page_.keyboard.down("Control")
    page_.mouse.wheel(0, -100)
    page_.keyboard.up("Control")
    expect(zoom).to_have_text("122 %")
    # the place and size of a finding can be followed from slice to slice
    stage.focus()
    page_.keyboard.press("ArrowUp")
    expect(place).to_have_text("Series 1 of 2 · CT · image 6 of 7 · 1 cannot be shown")
    expect(zoom).to_have_text("122 %")
    assert page_.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0
    # keys of the page still work from there
    page_.keyboard.press("n")
    expect(page_.locator(".cb-id").first).not_to_have_text(case)
    expect(page_.locator(".cb-outcome")).to_be_visible()
    watched.settle()
    stage.hover()
    page_.mouse.wheel(0, 300)
    page_.wait_for_function("document.querySelector('[data-testid=stMain]').scrollTop > 100")
    expect(zoom).to_have_text("100 %")


def test_blind_first_on_the_worklist_and_on_a_case(watched):
    page_ = watched.start()
    watched.settle()
    expect(page_.locator(".cb-provisional").first).to_be_visible()
    page_.get_by_text("Blind first", exact=True).click()
    expect(page_.get_by_text("blind first", exact=True).first).to_be_visible()
    expect(page_.locator(".cb-provisional")).to_have_count(0)
    watched.shoot("blind-light")
    page_.get_by_role("link", name="phantom-").first.click()
    expect(page_.get_by_text("What do you see?")).to_be_visible()
    expect(page_.get_by_role("button", name="Agree")).to_have_count(0)
    watched.settle()
    page_.keyboard.press("1")
    expect(page_.locator(".cb-done")).to_contain_text("Your blind reading")
    expect(page_.get_by_role("button", name="Agree")).to_be_visible()


def test_the_benchmark_visits_a_large_worklist(browser):
    # in a process of its own: this one drives a browser already
    command = [sys.executable, "-c", "from curbside.cli import main; main()", "bench", "console"]
    command += ["--cases", "120", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["cases"] == 120 and len(told["filters"]) == 2
    assert told["first_paint_median"] > 0 and told["filter_median"] > 0
