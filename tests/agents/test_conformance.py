"""What everything that reads studies promises, run over the fake and each embedded kind."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curbside.agents.contract import Agent, AgentCard, FakeAgent
from curbside.agents.fleet import Fleet
from curbside.readings import Abstention, Failure, Reading
from curbside.study import Instance, Question, QuestionKind, Series, Study

EMBEDDED = ("specialist-discs", "generalist-16", "generalist-full", "linear-full")
KINDS = ("fake", *EMBEDDED)
OPTIONS = ("benign", "malignant", "normal")
DISCS = Question(options=OPTIONS, task="discs_size")


def by_hash(question: Question) -> Sequence[float] | None:
    if question.kind is not QuestionKind.DIAGNOSIS:
        return None
    weights = [1 + hashlib.sha256(o.encode()).digest()[0] for o in question.options]
    return [w / sum(weights) for w in weights]


def fake(answer: Any = by_hash) -> FakeAgent:
    card = AgentCard(name="fake", kind="fake", role="generalist", fingerprint="f" * 64)
    return FakeAgent(card, answer)


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest, fleet: Fleet) -> Agent:
    return fake() if request.param == "fake" else fleet.agents[request.param]


@pytest.fixture(params=EMBEDDED)
def embedded(request: pytest.FixtureRequest, fleet: Fleet) -> Agent:
    return fleet.agents[request.param]


def readings(agent: Agent, studies: Sequence[Study]) -> list[Reading]:
    """What an agent reads, where it is to read everything."""
    found = agent.read_batch(studies)
    read = [r for r in found if isinstance(r, Reading)]
    assert len(read) == len(found), found
    return read


def ask(study: Study, question: Question) -> Study:
    return dataclasses.replace(study, question=question)


def some(world: Any, modality: str, question: Question) -> list[Study]:
    rows = world.cases.where(role="test", modality=modality)
    return [ask(s, question) for s in world.cases.take(rows).studies()]


def bad_studies(folder: Any, good: Study) -> list[Study]:
    named = folder / "DOE^JANE"
    named.mkdir(exist_ok=True)
    (named / "note.png").write_text("not an image")
    source = good.instances[0].source
    assert isinstance(source, Path)
    whole = source.read_bytes()
    (named / "cut.png").write_bytes(whole[: len(whole) // 2])
    sources = [named / "gone.png", named / "note.png", named / "cut.png", named, b""]
    studies = [Study(id=f"bad{i}", series=(Series((Instance(s),)),)) for i, s in enumerate(sources)]
    return [ask(s, good.question) for s in [*studies, Study(id="none", series=())]]


def test_card(agent: Agent, fleet: Fleet) -> None:
    card = agent.card
    assert card.name and card.kind and card.fingerprint
    assert card.cost >= 0
    assert card.role in ("specialist", "generalist", "person")
    assert AgentCard.model_validate_json(card.model_dump_json()) == card


def test_embedded_cards_say_what_they_are(fleet: Fleet) -> None:
    for name, agent in fleet.agents.items():
        assert agent.card.name == name
        assert agent.card.kind == "embedded"
        assert "not for clinical use" in agent.card.limits
    assert fleet.agents["specialist-discs"].card.modalities == ("discs",)
    assert fleet.agents["specialist-discs"].card.tasks == ("discs_size",)
    assert fleet.agents["generalist-full"].card.modalities == ()
    marks = {a.card.fingerprint for a in fleet.agents.values()}
    assert len(marks) == len(fleet.agents)


def test_one_response_a_study_in_order(agent: Agent, world: Any) -> None:
    studies = some(world, "discs", DISCS)
    responses = readings(agent, studies)
    assert len(responses) == len(studies) > 5
    for r in responses:
        assert (r.agent, r.fingerprint) == (agent.card.name, agent.card.fingerprint)
        assert r.options == OPTIONS
        assert len(r.probabilities) == 3
        assert min(r.probabilities) >= 0
        assert sum(r.probabilities) == pytest.approx(1, abs=1e-5)
        assert r.confidence == pytest.approx(max(r.probabilities))
        assert r.cost == agent.card.cost
    turned = [r.probabilities for r in readings(agent, studies[::-1])]
    assert turned == [r.probabilities for r in responses][::-1]
    assert agent.read_batch([]) == []


def test_a_batch_says_what_single_reads_say(agent: Agent, world: Any, tmp_path: Any) -> None:
    questions = [
        DISCS,
        Question(options=("benign", "malignant")),
        Question(options=("cat", "dog", "bird")),
        Question(options=("wide", "thin"), task="stripes_width"),
        Question(),
    ]
    studies = [
        ask(s, questions[i % len(questions)])
        for i, s in enumerate(world.cases.take(world.cases.where(role="test")).studies())
    ]
    studies[3:3] = bad_studies(tmp_path, studies[0])
    together = agent.read_batch(studies)
    alone = [agent.read(s) for s in studies]
    same = [r.model_copy(update={"latency_ms": 0.0}) if isinstance(r, Reading) else r
            for r in together]  # fmt: skip
    assert same == [r.model_copy(update={"latency_ms": 0.0}) if isinstance(r, Reading) else r
                    for r in alone]  # fmt: skip


def test_cold_reads_are_the_same_too(world: Any, fleet: Fleet) -> None:
    """Nothing kept: inputs are computed for one study, then for all, and agree bit for bit."""
    from curbside.agents.embedded import EmbeddedAgent
    from curbside.agents.trunk import Trunk
    from curbside.indexes.features import FeatureSource

    studies = some(world, "discs", DISCS)
    source = FeatureSource(world.source.encoder)
    for name in EMBEDDED:
        known = fleet.agents[name]
        assert isinstance(known, EmbeddedAgent)
        opened = partial(getattr, known, "reader")
        cold = EmbeddedAgent(known.card, opened, Trunk(source, memory=0))
        expected = [r.probabilities for r in readings(known, studies)]
        one_by_one = [readings(cold, [s])[0].probabilities for s in studies]
        assert one_by_one == expected
        assert [r.probabilities for r in readings(cold, studies)] == expected


def test_bad_images_never_raise(agent: Agent, world: Any, tmp_path: Any) -> None:
    good = some(world, "discs", DISCS)[0]
    bad = bad_studies(tmp_path, good)
    responses = agent.read_batch([good, *bad, good])
    assert len(responses) == len(bad) + 2
    assert isinstance(responses[0], Reading)
    assert isinstance(responses[-1], Reading)
    if agent.card.kind == "fake":
        return
    kinds = []
    for r in responses[1:-1]:
        assert isinstance(r, Failure)
        assert r.kind == "image"
        assert "DOE" not in r.message
        assert str(tmp_path) not in r.message
        kinds.append(r.message.split(":")[0])
    assert kinds == ["missing", "wrong_type", "truncated", "wrong_type", "empty", "missing"]


@pytest.mark.parametrize(
    "question",
    [
        Question(),
        Question(task="discs_size"),
        Question(text="What is to be seen?", kind=QuestionKind.VQA_OPEN),
        Question(options=OPTIONS, text="Report.", kind=QuestionKind.REPORT),
    ],
)
def test_abstains_from_what_is_not_a_choice(agent: Agent, world: Any, question: Question) -> None:
    (response,) = agent.read_batch(some(world, "discs", question)[:1])
    assert isinstance(response, Abstention)
    assert response.agent == agent.card.name
    assert response.reason


def test_closed_visual_questions_are_read(embedded: Agent, world: Any) -> None:
    asked = dataclasses.replace(DISCS, kind=QuestionKind.VQA_CLOSED, text="What is it?")
    study = some(world, "discs", DISCS)[0]
    (closed,), (plain,) = readings(embedded, [ask(study, asked)]), readings(embedded, [study])
    assert closed.probabilities == plain.probabilities


def test_unknown_options(embedded: Agent, world: Any) -> None:
    asked = Question(options=("giraffe", "teapot", "some_rare_finding"))
    responses = embedded.read_batch(some(world, "discs", asked))
    if not embedded.card.name.startswith("generalist"):
        reasons = [r.reason for r in responses if isinstance(r, Abstention)]
        assert len(reasons) == len(responses)
        assert "options" in reasons[0]
        return
    for r in responses:
        assert isinstance(r, Reading)
        assert r.options == asked.options
        assert sum(r.probabilities) == pytest.approx(1, abs=1e-5)
        assert len(set(r.probabilities)) == 3


def test_one_unknown_option_among_known_ones(embedded: Agent, world: Any) -> None:
    asked = Question(options=("benign", "malignant", "teapot"), task="discs_size")
    (r,) = embedded.read_batch(some(world, "discs", asked)[:1])
    assert isinstance(r, Reading if embedded.card.name.startswith("generalist") else Abstention)


@pytest.mark.parametrize("options", [OPTIONS, ("giraffe", "teapot", "zebra")])
def test_order_of_options_changes_nothing(
    agent: Agent, world: Any, options: tuple[str, ...]
) -> None:
    task = "discs_size" if options is OPTIONS else None
    turned = (options[2], options[0], options[1])
    first = agent.read_batch(some(world, "discs", Question(options=options, task=task)))
    second = agent.read_batch(some(world, "discs", Question(options=turned, task=task)))
    for a, b in zip(first, second, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Reading) and isinstance(b, Reading):
            said = dict(zip(a.options, a.probabilities, strict=True))
            again = dict(zip(b.options, b.probabilities, strict=True))
            assert said == pytest.approx(again, abs=1e-6)
            assert b.options == turned


@pytest.mark.parametrize("task", ["discs_size", None])
def test_fewer_options_renormalise(agent: Agent, world: Any, task: str | None) -> None:
    subset = ("normal", "benign")
    whole = agent.read_batch(some(world, "discs", Question(options=OPTIONS, task=task)))
    part = agent.read_batch(some(world, "discs", Question(options=subset, task=task)))
    for a, b in zip(whole, part, strict=True):
        assert isinstance(a, Reading)
        assert isinstance(b, Reading)
        said = dict(zip(a.options, a.probabilities, strict=True))
        expected = np.array([said[o] for o in subset])
        np.testing.assert_allclose(b.probabilities, expected / expected.sum(), atol=1e-4)


def test_the_named_task_selects_the_head(fleet: Fleet, world: Any) -> None:
    """Two tasks share benign and malignant: the name decides, for home and foreign alike."""
    pair = ("benign", "malignant")
    for name in ("specialist-discs", "generalist-full", "linear-full"):
        agent = fleet.agents[name]
        one = readings(agent, some(world, "discs", Question(options=pair, task="discs_size")))
        two = readings(agent, some(world, "discs", Question(options=pair, task="dots_kind")))
        assert [r.probabilities for r in one] != [r.probabilities for r in two], name
    other = fleet.agents["specialist-stripes"].read_batch(some(world, "discs", DISCS))
    assert all(isinstance(r, Reading) for r in other)


def test_they_learn_something(fleet: Fleet, world: Any) -> None:
    """Drawn discs and stripes are easy: well above the chance of 1/3 and 1/2."""
    cases = world.cases.take(world.cases.where(role="test"))
    truth, modality = cases.labels, cases.modalities
    for name in ("generalist-full", "linear-full"):
        said = np.array([r.answer for r in readings(fleet.agents[name], cases.studies())])
        assert (said == truth)[modality != "dots"].mean() >= 0.8, name
    for own, name in fleet.specialists.items():
        said = np.array([r.answer for r in readings(fleet.agents[name], cases.studies())])
        assert (said == truth)[modality == own].mean() >= 0.8, name


def test_fake_failures() -> None:
    study = Study(id="a", series=(), question=Question(options=("x", "y")))

    def broken(_: Question) -> Sequence[float]:
        raise RuntimeError("patient 12345")

    failed = fake(broken).read(study)
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.message) == ("internal", "RuntimeError")
    for wrong in ([1.0], [0.5, 0.6], [1.5, -0.5], []):
        response = fake(lambda _, p=wrong: p).read(study)
        assert isinstance(response, Failure), wrong
        assert response.kind == "invalid_answer"
    assert isinstance(fake(lambda _: None).read(study), Abstention)
