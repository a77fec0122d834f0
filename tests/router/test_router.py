"""The graph at work over fakes: routes, records, waiting cases, and what is never stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests_router_world import TASKS, World, make_world, picture, plain, strange

from curbside.agents.contract import FakeAgent
from curbside.config import AveragePolicy, CascadePolicy, CompetencePolicy, TierPolicy
from curbside.errors import Conflict, ImageError, UserError
from curbside.phantom_dicom import as_dicom
from curbside.readings import Explanation, Status, Tier
from curbside.router.desk import RouterDesk
from curbside.router.render import render, rests_on
from curbside.study import Instance, Question, Series, Study


def study(modality: str, task: str, *, seed: int = 5000, id: str = "case") -> Study:
    question = Question(options=TASKS[task], task=task)
    return Study.from_image(picture(modality, 0, seed), question=question, id=id)


def test_a_common_case_goes_to_its_specialist(world: World, tmp_path: Path) -> None:
    record = world.router(tmp_path).read(study("xray", "bones"))
    assert record.outcome.status is Status.ANSWERED
    assert record.outcome.reader == "specialist-xray"
    assert record.outcome.answer == "intact"
    assert record.tier is Tier.COMMON
    assert record.familiarity is not None and record.familiarity.p_value > 0.05
    assert world.asked == ["specialist-xray"]
    assert record.outcome.reasons[0].code == "specialist"
    assert {n.modality for n in record.neighbours} == {"xray"}


def test_a_modality_without_specialist_goes_to_the_generalist(world: World, tmp_path: Path) -> None:
    record = world.router(tmp_path).read(study("photo", "skin"))
    assert record.outcome.reader == "generalist"
    assert record.tier is Tier.RARE


def test_the_never_seen_waits_for_a_person_over_processes(world: World, tmp_path: Path) -> None:
    odd = Study.from_image(strange(), question=Question(options=("yes", "no")), id="odd")
    first = world.router(tmp_path).read(odd)
    assert first.outcome.status is Status.NEEDS_REVIEW
    assert first.tier is Tier.NOVEL
    assert first.outcome.answer is None
    assert first.outcome.provisional == "yes"
    later = world.router(tmp_path)
    assert [r.case for r in later.pending()] == ["odd"]
    with pytest.raises(UserError, match="yes, no"):
        later.review("odd", "perhaps")
    assert [r.case for r in later.pending()] == ["odd"]
    final = later.review("odd", "no", reader="dr-1")
    assert final.outcome.status is Status.ANSWERED
    assert (final.outcome.answer, final.outcome.reader) == ("no", "dr-1")
    assert later.pending() == []
    with pytest.raises(Conflict, match="answered by dr-1 with 'no'"):
        later.review("odd", "no")
    assert [e.who for e in later.ledger.events("odd")] == ["dr-1"]
    assert later.ledger.record("odd", 0) == first


def test_a_level_that_no_p_value_can_reach_is_said_when_the_router_opens(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.router(tmp_path, policy=TierPolicy(alpha=0.05))
    world.router(tmp_path, policy=TierPolicy(alpha=0))  # no gate, nothing to say
    assert not caplog.records
    world.router(tmp_path, policy=TierPolicy(alpha=0.01))
    (said,) = caplog.messages
    assert said.startswith("at alpha 0.01 no case can be called novel in the calibration strata")
    assert "fewer than 99 cases" in said


def test_what_is_stored_holds_no_pixel_and_no_path(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "JANE_DOE"
    folder.mkdir()
    image = folder / "jane_doe_1970.png"
    raw = strange(3)
    image.write_bytes(raw)
    router = world.router(tmp_path / "home")
    record = router.read(Study.from_image(image, question=Question(options=("yes", "no"))))
    assert record.outcome.status is Status.NEEDS_REVIEW
    # the files' names are in one place, apart from all records, and only where that is wanted
    kept = [p for p in (tmp_path / "home").rglob("*") if p.is_file()]
    assert any(b"jane_doe" in p.read_bytes() for p in kept if p.name.startswith("sources"))
    stored = b"".join(p.read_bytes() for p in kept if not p.name.startswith("sources"))
    assert record.case.encode() in stored
    assert b"jane_doe" not in stored.lower()
    assert raw[60:90] not in stored
    assert "jane" not in render(record).lower() + str(record.to_json()).lower()


@pytest.mark.parametrize("policy", [TierPolicy(minimum_support=20), CompetencePolicy()])
def test_a_batch_gives_the_records_of_single_studies(
    world: World, tmp_path: Path, policy: Any
) -> None:
    studies = [
        study("xray", "bones", id="1"),
        study("ct", "lungs", id="2"),
        study("photo", "skin", id="3"),
        Study.from_image(strange(1), question=Question(options=("a", "b")), id="4"),
        Study.from_image(b"", id="5"),
    ]
    router = world.router(tmp_path / "batch", policy)
    alone = world.router(tmp_path / "alone", policy)
    together = [plain(r) for r in router.read_batch(studies)]
    assert together == [plain(alone.read(s)) for s in studies]
    asked = len(world.asked)
    assert together == [plain(r) for r in router.read_batch(studies)]
    assert together == [plain(router.read(s)) for s in studies]
    assert len(world.asked) == asked  # the ledger knew
    planned = [plain(r) for r in router.decide_batch(studies)]
    assert planned == [plain(router.decide(s)) for s in studies]


def test_the_cascade_walks_the_graph_twice_and_replays_the_same(tmp_path: Path) -> None:
    world = make_world({"specialist-xray": lambda q: [0.55, 0.45], "generalist": lambda q: [0, 1]})
    router = world.router(tmp_path, CascadePolicy(minimum_support=20))
    record = router.read(study("xray", "bones"))
    assert record.outcome.route == ("specialist-xray", "generalist")
    assert record.outcome.answer == "broken"
    assert record.outcome.dissent == ("specialist-xray: intact (0.55)",)
    other = world.router(tmp_path / "other", CascadePolicy(minimum_support=20))
    assert plain(other.read_batch([study("xray", "bones")])[0]) == plain(record)


def test_a_failed_specialist_is_in_the_record_and_another_reads(tmp_path: Path) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("jane doe")

    world = make_world({"specialist-xray": broken})
    record = world.router(tmp_path).read(study("xray", "bones"))
    assert record.outcome.reader == "generalist"
    assert [r.code for r in record.outcome.reasons] == ["fallback", "failure"]
    assert "jane" not in render(record)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", Status.NOT_ANALYSED, "image_empty"),
        (b"not an image", Status.NOT_ANALYSED, "image_wrong_type"),
        (picture("xray", 0, 1)[:200], Status.NOT_ANALYSED, None),
    ],
)
def test_an_image_that_cannot_be_used_is_never_an_answer(
    world: World, tmp_path: Path, raw: bytes, status: Status, code: str | None
) -> None:
    record = world.router(tmp_path).read(Study.from_image(raw, id="bad"))
    assert record.outcome.status is status
    assert record.outcome.answer is None and record.outcome.provisional is None
    assert record.outcome.reasons[0].code.startswith(code or "image_")
    assert "says nothing about the patient" in render(record)
    assert world.asked == []


def test_deciding_calls_no_agent_and_reading_does_what_was_said(
    world: World, tmp_path: Path
) -> None:
    router = world.router(tmp_path)
    planned = router.decide(study("ct", "lungs"))
    assert world.asked == []
    assert planned.outcome.route == ("specialist-ct",)
    assert router.read(study("ct", "lungs")).outcome.route == planned.outcome.route


def test_without_a_question_the_task_of_the_nearest_is_asked(world: World, tmp_path: Path) -> None:
    record = world.router(tmp_path).read(Study.from_image(picture("ct", 1, 7), id="bare"))
    assert record.task == "lungs" and record.options == TASKS["lungs"]
    assert "assumed_question" in [r.code for r in record.outcome.reasons]


def test_a_node_that_dies_is_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Any, state: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RouterDesk, "decide", dies)
        with pytest.raises(RuntimeError, match="killed"):
            world.router(tmp_path).read(study("xray", "bones"))
    record = world.router(tmp_path).read(study("xray", "bones"))
    assert record.outcome.status is Status.ANSWERED


def test_what_is_said_to_flip_the_case_does_flip_it(world: World, tmp_path: Path) -> None:
    case = study("xray", "bones")
    record = world.router(tmp_path / "a").read(case)
    changes = {c.change: c.then for c in record.outcome.counterfactuals}
    assert len(changes) == 3
    p = record.familiarity.p_value if record.familiarity else 1.0
    stricter = world.router(tmp_path / "b", TierPolicy(minimum_support=20, alpha=min(p, 0.999)))
    assert stricter.read(case).outcome.status is Status.NEEDS_REVIEW
    floor = next(float(c.rsplit(" ", 1)[1]) for c in changes if "floor" in c)
    held = world.router(tmp_path / "c", TierPolicy(minimum_support=20, floor=floor))
    assert held.read(case).outcome.status is Status.NEEDS_REVIEW
    support = record.support or 0
    rare = world.router(tmp_path / "d", TierPolicy(minimum_support=support + 1))
    assert rare.read(case).outcome.reader == "generalist"


def test_what_is_no_study_is_refused_without_its_name(world: World, tmp_path: Path) -> None:
    router = world.router(tmp_path)

    async def later() -> AsyncIterator[Any]:
        yield "Doe.png"

    async def drained() -> None:
        async for _ in router.read_batch(later()):
            pass

    for call in (
        lambda: router.read_batch(cast("Any", "Doe.png")),
        lambda: router.decide_batch(cast("Any", [study("xray", "bones"), "Doe.png"])),
        lambda: list(router.read_batch(iter(cast("Any", ["Doe.png"])))),
        lambda: asyncio.run(drained()),
    ):
        with pytest.raises(UserError, match=r"of studies, not of str\n  next: .*from_image") as e:
            call()
        assert "Doe" not in str(e.value)
    assert not world.asked


def test_two_studies_of_one_id_are_refused(world: World, tmp_path: Path) -> None:
    router = world.router(tmp_path)
    with pytest.raises(UserError, match="tell cases apart"):
        router.read_batch([study("xray", "bones"), study("ct", "lungs")])
    # and the desk is clear again
    assert router.read(study("xray", "bones")).outcome.status is Status.ANSWERED


def test_the_text_leads_with_the_outcome_and_the_notice_is_there(
    world: World, tmp_path: Path
) -> None:
    text = render(world.router(tmp_path).read(study("xray", "bones")))
    assert text.startswith("ANSWERED: intact")
    assert "not a medical device" in text
    assert "what if" in text


def test_an_average_is_recorded_as_one_reading_of_several(tmp_path: Path) -> None:
    world = make_world(
        {"specialist-xray": lambda q: [0.9, 0.1], "generalist": lambda q: [0.2, 0.8]}
    )
    router = world.router(tmp_path, policy=AveragePolicy(weight=0.75))
    record = router.read(study("xray", "bones"))
    assert record.outcome.reader == "specialist-xray + generalist"
    assert record.outcome.answer == "intact"
    assert record.outcome.confidence == pytest.approx(0.75 * 0.9 + 0.25 * 0.2)
    assert record.outcome.reasons[0].code == "averaged"
    assert record.outcome.dissent == ("generalist: broken (0.80)",)
    assert "specialist-xray + generalist" in render(record)
    assert any("0.73" in c.change for c in record.outcome.counterfactuals)


@pytest.mark.parametrize("policy", [TierPolicy(minimum_support=20), CascadePolicy()])
def test_tags_that_name_another_modality_send_the_case_to_a_person(
    world: World, tmp_path: Path, policy: Any
) -> None:
    honest, wrong = study("xray", "bones", id="a"), study("xray", "bones", id="b")
    router = world.router(tmp_path, policy)
    first, second = router.read_batch(
        [replace(honest, tags={"Modality": "xray"}), replace(wrong, tags={"Modality": "ct"})]
    )
    assert first.outcome.status is Status.ANSWERED
    assert second.outcome.status is Status.NEEDS_REVIEW
    assert second.outcome.provisional == first.outcome.answer
    assert [r.code for r in second.outcome.reasons].count("tag_disagreement") == 1
    assert "had the tags named what the pixels show" in render(second)
    assert [r.case for r in router.pending()] == ["b"]


def test_a_study_that_lost_objects_is_read_and_says_so(world: World, tmp_path: Path) -> None:
    whole = picture("xray", 0, 5000)
    images = tuple(Instance(raw) for raw in (whole, whole[:90], whole))
    record = world.router(tmp_path).read(
        Study(
            "case", (Series(images),), Question(options=TASKS["bones"]), incomplete=("no_pixels",)
        )
    )
    assert record.outcome.status is Status.ANSWERED
    assert record.incomplete[0] == "no_pixels" and len(record.incomplete) == 2
    assert "incomplete" in [r.code for r in record.outcome.reasons]
    assert "1 no_pixels" in render(record)


def test_a_study_that_is_unsafe_to_open_is_quarantined(world: World, tmp_path: Path) -> None:
    for reason, status in (
        ("too_large", Status.QUARANTINED),
        ("too_deep", Status.QUARANTINED),
        ("timeout", Status.QUARANTINED),
        ("no_pixels", Status.NOT_ANALYSED),
    ):
        record = world.router(tmp_path).read(Study.unusable("bad", ImageError(reason, "why")))
        assert record.outcome.status is status
        assert record.outcome.reasons[0].code == f"image_{reason}"
    assert world.asked == []


def test_nothing_of_a_dicom_object_is_stored_but_hashes(world: World, tmp_path: Path) -> None:
    raw = as_dicom(
        np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8),
        modality="OT",
        patient="SECRET-77",
        PatientName="Doe^Jane",
        AccessionNumber="ACC-123",
        StudyDescription="Follow-up of Jane Doe",
    )
    router = world.router(tmp_path)
    record = router.read(Study.from_dicom(raw, question=Question(options=("yes", "no"))))
    assert record.outcome.status is Status.NEEDS_REVIEW
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    stored += render(record).encode() + str(record.to_json()).encode()
    assert record.case.encode() in stored
    for secret in (b"SECRET", b"Jane", b"Doe", b"ACC-123", b"1.2.826"):
        assert secret not in stored


@pytest.mark.parametrize(
    ("explanation", "said"),
    [
        (Explanation(kind="class_activation", option="x", share=0.5,
                     grid=((0.0, 0.1, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 2.0))),
         "the image's lower right above all (class activation for 'x'; 50 %"),
        (Explanation(kind="class_activation", option="x", grid=((1.0,),)), "upper left"),
        (Explanation(kind="cited", citations=("a shadow", "a line")), "cites: a shadow; a line"),
        (Explanation(kind="none", note="no explanation available: why"), "available: why"),
        (Explanation(kind="none"), "no explanation available"),
    ],
)  # fmt: skip
def test_what_a_reading_rests_on_in_words(explanation: Explanation, said: str) -> None:
    assert said in rests_on(explanation)


def test_a_reading_is_explained_by_its_reader_or_said_not_to_be(
    world: World, tmp_path: Path
) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    class Explaining(FakeAgent):
        def explain(self, study: Study, option: str) -> Explanation:
            asked.append((option, study.question.options))
            return Explanation(kind="class_activation", option=option, grid=((1.0,),))

    own = world.agents["specialist-xray"]
    world.agents["specialist-xray"] = Explaining(own.card, own._answer)
    router = world.router(tmp_path)
    record = router.read(study("xray", "bones"))
    assert record.explained is not None and record.explained.explanation is not None
    assert record.explained.explanation.grid == ((1.0,),)
    assert asked == [("intact", TASKS["bones"])]
    assert router.explain(study("xray", "bones"), record).grid == ((1.0,),)
    assert len(asked) == 1, "what the record holds is not asked again"
    kept = router.ledger.record(record.case)
    assert kept.explained == record.explained
    before = record.model_copy(
        update={
            "responses": tuple(r.model_copy(update={"explanation": None}) for r in record.responses)
        }
    )
    assert before.explained is None
    assert router.explain(study("xray", "bones"), before).grid == ((1.0,),)
    (batched,) = router.read_batch([study("xray", "bones", id="batched")])
    assert batched.explained is not None
    assert batched.explained.explanation == record.explained.explanation
    other = router.read(study("photo", "skin", id="other"))
    assert "no explanation" in router.explain(study("photo", "skin"), other).note
    bad = Study.from_image(b"", id="bad")
    assert "no model read it" in router.explain(bad, router.read(bad)).note
