"""Controls: agents that cheat are found, honest ones are not."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.cases import read_cases
from curbside.config import Config
from curbside.evals.control_run import _blind, explained, without_them
from curbside.evals.controls import (
    LEAST,
    copies_of_known,
    option_order,
    order_effect,
    question_only,
    rate,
    sample_rows,
    without_image,
)
from curbside.evals.evaluation import evaluate
from curbside.evals.table import control_cells
from curbside.indexes.features import Features, central_instance
from curbside.readings import CaseRecord, Outcome, Reading, Reason, Status, Versions
from curbside.study import Question, Study

OPTIONS = ("sick", "well")


class Looker(FakeAgent):
    """Reads the brightness of the picture; a cheat knows the truth whatever it is shown."""

    def __init__(self, truths=None):
        card = AgentCard(name="looker", kind="fake", role="generalist", fingerprint="x")
        super().__init__(card, lambda q: None)
        self.truths = truths

    def read(self, study: Study) -> Reading:
        options = study.question.options
        if self.truths is not None:
            answer = self.truths[study.id]
        else:
            answer = "sick" if central_instance(study).pixels().mean() > 140 else "well"
        p = tuple(0.9 if o == answer else 0.1 for o in options)
        return Reading(
            agent="looker", fingerprint="x", options=options, probabilities=p, confidence=0.9
        )


class First(FakeAgent):
    """Always takes the first option."""

    def __init__(self):
        card = AgentCard(name="first", kind="fake", role="generalist", fingerprint="y")
        super().__init__(card, lambda q: [0.9, 0.1])


@pytest.fixture
def studies(tmp_path):
    out, labels = [], []
    for i in range(40):
        sick = i % 2 == 0
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (16, 16), (200 if sick else 60,) * 3).save(path)
        out.append(Study.from_image(path, id=f"s{i}", question=Question(options=OPTIONS)))
        labels.append("sick" if sick else "well")
    return out, labels


def test_a_reader_that_looks_is_lost_without_the_image(studies):
    asked, labels = studies
    agents = [[Looker()]] * len(asked)
    blank, noise, shuffled = without_image(asked, labels, agents, blind=0.5)[:3]
    assert blank.value == noise.value == 0.5
    assert shuffled.value == 0.0
    assert {c.finding for c in (blank, noise, shuffled)} == {"not found"}


def test_a_reader_that_does_not_look_is_found(studies):
    asked, labels = studies
    cheat = Looker({s.id: label for s, label in zip(asked, labels, strict=True)})
    found = without_image(asked, labels, [[cheat]] * len(asked), blind=0.5)
    assert [c.finding for c in found] == ["found"] * 6


def test_each_agent_has_its_own_row_and_only_some_are_pooled(studies):
    asked, labels = studies
    cheat = Looker({s.id: label for s, label in zip(asked, labels, strict=True)})
    cheat.card = cheat.card.model_copy(update={"name": "cheat"})
    few = [[Looker(), cheat] if i < 30 else [Looker()] for i in range(len(asked))]
    readers = [[few[0][0], *r[1:]] for r in few]  # one Looker object for all
    level = np.linspace(0.2, 0.8, len(asked))
    found = without_image(asked, labels, readers, level, together={"looker"})
    assert [c.agent for c in found] == [""] * 3 + ["looker", "cheat"] * 3
    pooled, looker, cheating = found[0], found[3], found[4]
    assert (pooled.n, pooled.value) == (looker.n, looker.value) == (40, 0.5)
    assert pooled.held_against == pytest.approx(0.5)
    assert (cheating.n, cheating.finding) == (30, "found")
    assert cheating.held_against == pytest.approx(level[:30].mean())
    order = option_order(asked, readers, together={"looker"})
    assert [(c.agent, c.value) for c in order] == [("", 0), ("looker", 0), ("cheat", 0)]


def test_an_agent_is_not_judged_by_a_handful_of_cases(studies):
    asked, labels = studies
    cheat = Looker({s.id: label for s, label in zip(asked, labels, strict=True)})
    cheat.card = cheat.card.model_copy(update={"name": "cheat"})
    looker = Looker()
    readers = [[looker, cheat] if i < LEAST - 1 else [looker] for i in range(len(asked))]
    found = [*without_image(asked, labels, readers, 0.5), *option_order(asked, readers)]
    alone = [c for c in found if c.agent == "cheat"]
    assert len(alone) == 4
    for c in alone:
        assert (c.n, c.value, c.ci_low, c.finding) == (LEAST - 1, None, None, "not assessable")
        assert "too few to assess" in c.about
    assert all(c.value is not None for c in found if c.agent == "looker")
    assert found[0].n == len(asked) + LEAST - 1  # together they are pooled all the same


def test_several_agents_are_held_to_a_stricter_bound():
    alone = rate("x", "", 60, 100, held_against=0.5)
    among = rate("x", "", 60, 100, held_against=0.5, tests=20, agent="a")
    assert (alone.finding, among.finding) == ("found", "not found")
    assert alone.ci_low == among.ci_low


def test_the_order_of_options_before_and_after_averaging(studies):
    """A model that always favours what is shown first, and one that knows what it sees."""
    from curbside.agents.fleet_spec import CardSpec, Decoding, Limits, TransformersSpec
    from curbside.agents.prompting import load_prompt
    from curbside.agents.report_draft import load_report
    from curbside.agents.vision import FakeEngine, Said, Unsaid, VisionAgent, card_of

    def agent(answer, orders=4):
        spec = TransformersSpec(kind="transformers", base="b", card=CardSpec(role="generalist"))
        decoding = Decoding(orders=orders)
        card, engine = card_of("vlm", "transformers", spec, "f"), FakeEngine(answer)
        prompt, report = load_prompt("plain-1"), load_report("chest-1")
        return VisionAgent(card, engine, prompt, report, decoding, Limits())

    def first(ask):
        return Said(probabilities=(0.7, 0.3))

    def knows(ask):
        sick = '"A": "sick"' in ask.text
        return Said(probabilities=(0.9, 0.1) if sick else (0.1, 0.9))

    asked, _ = studies
    alone, averaged = order_effect(asked[:5], [[agent(first)]] * 1 + [[]] * 4)
    assert (alone.value, alone.finding, alone.agent) == (1.0, "reported", "vlm")
    assert (averaged.value, averaged.name) == (0.0, "option_order_averaged")
    one = order_effect(asked[:1], [[agent(first, orders=1)]])[1]
    assert one.value == 1.0
    assert [c.value for c in order_effect(asked[:1], [[agent(knows)]])] == [0.0, 0.0]
    lost = order_effect(asked[:1], [[agent(lambda a: Unsaid("timeout", "late"))]])
    assert [c.finding for c in lost] == ["not assessable"] * 2
    assert order_effect(asked, [[Looker()]] * len(asked)) == []


def test_a_task_with_one_label_cannot_be_shuffled(studies):
    asked, _ = studies
    shuffled = without_image(asked, ["sick"] * len(asked), [[Looker()]] * len(asked), 1.0)[2]
    assert (shuffled.n, shuffled.finding) == (0, "not assessable")


def test_the_order_of_the_options(studies):
    asked, _ = studies
    assert option_order(asked, [[Looker()]] * len(asked))[0].value == 0
    moved = option_order(asked, [[First()]] * len(asked))[0]
    assert (moved.value, moved.finding) == (1.0, "found")


def test_the_question_alone(tmp_path):
    lines = ["id,image,role,task,label,options,question"]
    lines += [f"t{i},a.png,train,x,sick,sick|well,Is it?" for i in range(5)]
    lines += [f"e{i},b.png,test,x,sick,sick|well,Is it?" for i in range(60)]
    lines += [f"f{i},c.png,test,y,well,sick|well,Is the patient well?" for i in range(20)]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines))
    cases = read_cases(path)
    test = cases.take(cases.where(role="test"))
    only, named = question_only(cases, test, np.ones(len(test), bool), best=0.5)
    assert only.value == pytest.approx(60 / 80)  # the other task has the same options
    assert only.finding == "found"
    assert named.value == pytest.approx(20 / 80)
    assert named.finding == "found"


def test_near_duplicates_are_found_in_pixels_not_only_in_features(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 40), np.uint8) for _ in range(3)]
    lines = ["id,image"]
    for name, p in (("k0", pictures[0]), ("k1", pictures[1])):
        Image.fromarray(p).save(tmp_path / f"{name}.png")
        lines.append(f"{name},{name}.png")
    brighter = np.clip(pictures[0].astype(int) * 0.8 + 20, 0, 255).astype(np.uint8)
    for name, p in (("e0", brighter), ("e1", pictures[2]), ("e2", pictures[1])):
        Image.fromarray(p).save(tmp_path / f"{name}.png")
        lines.append(f"{name},{name}.png")
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines))
    cases = read_cases(path)
    known, test = cases.take([0, 1]), cases.take([2, 3, 4])

    def features(vectors, digests):
        return Features(np.array(vectors, np.float32), digests, MappingProxyType({}), "e")

    control, rows = copies_of_known(
        known,
        features([[1, 0], [0, 1]], ("d0", "d1")),
        test,
        features([[1, 0.01], [1, 0.02], [0.5, 0.5]], ("d2", "d3", "d1")),
    )
    # e0: the same picture brighter; e1: close in features alone; e2: the same bytes
    assert rows.tolist() == [True, False, True]
    assert control.finding == "found"
    assert control.value == pytest.approx(2 / 3) and control.ci_low is None


def test_what_is_counted_whole_is_judged_without_an_interval():
    # 12 of 1,000: not significantly above 1 %, and above it all the same
    assert rate("x", "", 12, 1000, held_against=0.01).finding == "not found"
    assert rate("x", "", 12, 1000, held_against=0.01, sampled=False).finding == "found"
    assert rate("x", "", 10, 1000, held_against=0.01, sampled=False).finding == "not found"
    assert control_cells(rate("x", "", 12, 1000, held_against=0.01))[-1] == "above, within chance"
    assert control_cells(rate("x", "", 1, 1000, held_against=0.01))[-1] == "fine"


def test_copies_say_what_is_right_without_them(plant):
    world = plant(lambda a, m: 0.7, per=20)
    r = evaluate(world.everything, world.assessments, world.trained, Config(), replicates=20)
    about = rate("near_duplicates", "copies", 1, 2)
    none = np.zeros(len(world.everything), bool)
    assert without_them(about, none, r) == about
    # leave out all that the hybrid got wrong: what is left is all right
    wrong = world.everything.scored & (r.outcomes.arms[r.hybrid].right < 0.5)
    accuracy = 100 * r.arms[r.hybrid].overall["accuracy"][0]
    said = without_them(about, wrong, r).about
    assert f"{r.hybrid} 100.0 % (with them {accuracy:.1f} %)" in said


def test_rates_have_wilson_intervals():
    c = rate("x", "y", 0, 100, held_against=0.03)
    assert c.ci_low == 0
    assert c.ci_high == pytest.approx(0.0370, abs=1e-4)  # Wilson 1927
    assert rate("x", "y", 1, 2).finding == "reported"
    assert rate("x", "y", 99, 100, held_against=1.0, bad_above=False).finding == "found"


def test_samples_are_the_same_every_time():
    rows = np.arange(1000)
    assert np.array_equal(sample_rows(rows, 50), sample_rows(rows, 50))
    assert len(set(sample_rows(rows, 50).tolist())) == 50
    assert np.array_equal(sample_rows(rows[:5], 50), rows[:5])


def test_a_record_without_its_reasons_is_not_explained():
    versions = Versions(code="1", encoder="e", index="i", calibration="c", policy="p", fleet="f")
    outcome = Outcome(status=Status.NOT_ANALYSED, reasons=(Reason(code="image", text="missing"),))
    record = CaseRecord(case="c", content="", outcome=outcome, versions=versions)
    assert explained(record)
    bare = outcome.model_copy(update={"reasons": ()})
    assert not explained(record.model_copy(update={"outcome": bare}))
    answered = outcome.model_copy(update={"status": Status.ANSWERED})
    assert not explained(record.model_copy(update={"outcome": answered}))  # how familiar?


def test_a_blind_reader_is_given_the_commonest_label_of_each_task(plant):
    frame = plant(lambda agent, modality: 0.8).everything
    rows = np.flatnonzero(frame.scored)[:30]
    assert _blind(frame, frame.scored, rows) == pytest.approx(1 / 3)  # three labels, even
    assert len(_blind(frame, frame.scored, rows)) == 30
    assert not len(_blind(frame, frame.scored, rows[:0]))
