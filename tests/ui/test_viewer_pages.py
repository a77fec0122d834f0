"""The viewer on the case page: studies of several series, and images that cannot be shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydicom.data import get_testdata_file

from curbside.config import load_config
from curbside.router.ledger import case_key
from curbside.router.sources import open_sources
from curbside.storage import write_bytes
from curbside.study import Instance, Question, Series, Study


def stage(app) -> dict:
    """What the viewer was given."""
    given = [json.loads(c.proto.json) for c in app.get("bidi_component")]
    (found,) = [g for g in given if "src" in g]
    return found


def of_two_series(home, case: str, broken: Sequence[int]) -> None:
    """A case of an MR image and a stack of five CT images, of which some are cut short."""
    folder = home / "dicom"
    folder.mkdir()
    ct, mr = (
        Path(str(get_testdata_file(n, download=False))) for n in ("CT_small.dcm", "MR_small.dcm")
    )
    paths = []
    for i in range(5):
        raw = ct.read_bytes()
        paths.append(folder / f"{i}.dcm")
        write_bytes(paths[-1], raw[: len(raw) // 2] if i in broken else raw)
    series = (Series((Instance(mr),)), Series(tuple(map(Instance, paths))))
    store = open_sources(home, load_config(home / "curbside.yaml"))
    store.keep([Study(case, series)])
    store.close()


def test_the_viewer_says_the_series_and_opens_on_what_can_be_shown(opened, home, jobs):
    of_two_series(home, "study-xray", broken=(1, 2, 4))
    app = opened("case", case="study-xray", reader="Dr. A")
    assert app.selectbox(key="series-study-xray").value == 1
    # the middle one and its neighbour cannot be decoded
    assert app.slider(key="slice-study-xray-1").value == 4
    shown = stage(app)
    assert shown["place"] == "Series 2 of 2 · CT · image 4 of 5 · 3 cannot be shown"
    assert (shown["at"], shown["count"], shown["problem"]) == (3, 5, "")
    assert shown["src"].startswith("data:image/png;base64,") and "W " in shown["window"]
    (said,) = [c.value for c in app.caption if "cannot be shown" in c.value]
    assert said.endswith("Images that cannot be shown: series 2: 2–3, 5.")

    app.slider(key="slice-study-xray-1").set_value(2).run()
    shown = stage(app)
    assert not shown["src"] and "This image cannot be shown" in shown["problem"]
    assert shown["place"] == "Series 2 of 2 · image 2 of 5 · 3 cannot be shown"

    app.selectbox(key="series-study-xray").set_value(0).run()
    assert stage(app)["place"] == "Series 1 of 2 · MR"
    app.selectbox(key="series-study-xray").set_value(1).run()
    assert stage(app)["at"] == 1


def test_a_window_lasts_while_one_leafs(opened, home, jobs):
    of_two_series(home, "study-xray", broken=())
    app = opened("case", case="study-xray", reader="Dr. A")
    app.selectbox(key="window-study-xray-1").set_value("lung").run()
    app.slider(key="centre-study-xray-1-lung").set_value(-500.0).run()
    before = stage(app)["window"]
    assert "C -5" in before
    app.slider(key="slice-study-xray-1").set_value(5).run()
    assert stage(app)["window"] == before and stage(app)["image"] == "study-xray/1"


def test_a_study_that_lost_objects_says_so_beside_its_images(opened, home, jobs, ledger):
    record = ledger.record("study-xray").model_copy(
        update={"case": "study-part", "incomplete": ("truncated", "truncated", "too_large")}
    )
    key = case_key("study-part", "x", Question(options=record.options), record.versions)
    ledger.write([(key, record)])
    of_two_series(home, "study-part", broken=())
    app = opened("case", case="study-part", reader="Dr. A")
    app.toggle(key="cb_blind").set_value(True).run()
    assert any("2 truncated, 1 too large" in c.value for c in app.caption)
