"""A case as a page: nothing of it runs or is fetched, and images are in it only when given."""

from __future__ import annotations

import re

import numpy as np

from curbside.readings import CaseRecord, Explanation, Outcome, Reading, Status, Versions
from curbside.router.case_page import case_page

VERSIONS = Versions(code="1", encoder="e", index="i", calibration="c", policy="p", fleet="f")
GRID = ((1.0, 0.0), (0.0, -1.0))


def record(explanation: Explanation | None, reader: str | None = "a") -> CaseRecord:
    reading = Reading(agent="a", fingerprint="f", options=("x", "<b>y"), probabilities=(0.9, 0.1),
                      confidence=0.9, explanation=explanation)  # fmt: skip
    outcome = Outcome(status=Status.ANSWERED, answer="x", reader=reader, confidence=0.9, reasons=())
    return CaseRecord(case="<script>1", content="c", outcome=outcome, versions=VERSIONS,
                      options=reading.options, responses=(reading,))  # fmt: skip


def test_the_overlay_is_in_it_where_there_is_an_image() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    found = Explanation(kind="class_activation", option="x", grid=GRID)
    page = case_page(record(found), story=["a <i>note"], image=image, card="# a\n\n<b>mine")
    assert page.count("data:image/png;base64,") == 2
    assert "Orange speaks for &#x27;x&#x27;" in page
    assert "<h1>a</h1>" in page and "a &lt;i&gt;note" in page
    assert "<script" not in page and "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    cited = Explanation(kind="cited", citations=("a shadow",))
    page = case_page(record(cited), image=image)
    assert page.count("data:image/png;base64,") == 1 and "a shadow" in page


def test_without_an_image_it_says_so() -> None:
    page = case_page(record(Explanation(kind="class_activation", option="x", grid=GRID)))
    assert "not on this machine" in page and "data:image" not in page
    assert "No explanation available: no model read it" in case_page(record(None))


def test_of_several_readers_the_one_that_was_explained() -> None:
    found = Explanation(kind="none", note="no explanation available")
    assert record(found, reader="b + a").explained is not None
    assert record(found, reader="b").explained is None
    assert record(found, reader=None).explained is None
