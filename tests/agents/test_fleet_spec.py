"""Fleet files: strict, errors with their line, and opened through one function."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbside.agents import kinds
from curbside.agents.contract import AgentCard, FakeAgent
from curbside.agents.endpoint_agent import EndpointEngine
from curbside.agents.fleet import Fleet
from curbside.agents.fleet_spec import FleetSpec, fleet_path, load_fleet_spec, shipped_fleets
from curbside.agents.kinds import KINDS, kind_problem, opener
from curbside.agents.opening import open_fleet
from curbside.agents.vision import VisionAgent
from curbside.errors import ConfigError, MissingExtra
from curbside.readings import Abstention
from curbside.study import Study

MIXED = """
version: 1
generalist: big
agents:
  trained: {kind: embedded, include: ["specialist-discs", "generalist-full"], licence: mine}
  odd:
    kind: plugin
    use: odd
    card: {role: specialist, modalities: [dots, discs], cost: 3}
  big:
    kind: plugin
    use: odd
    card: {role: generalist}
  reader: {kind: person}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list(shipped_fleets()))
def test_the_fleets_that_ship_are_valid_and_say_what_they_are(name: str) -> None:
    spec = load_fleet_spec(fleet_path(name))
    text = shipped_fleets()[name].read_text(encoding="utf-8")
    assert text.startswith("#")
    for agent in spec.agents.values():
        if agent.kind == "embedded":
            assert agent.licence and agent.intended_use
        elif agent.kind != "person":
            card = agent.card
            assert card.licence and card.limits and card.intended_use and card.runs_on
    assert any(a.kind == "person" for a in spec.agents.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents:\n  a: {kind: embedded, inclde: [x]}\n", ("line 2", "inclde", "include")),
        (
            "generalist: a\nagents:\n  a:\n    kind: openai\n    endpoint: x\n    base: m\n"
            "    card:\n      role: generalist\n      modalites: [ct]\n",
            ("line 9", "agents.a.card.modalites", "modalities"),
        ),
        (
            "generalist: a\nagents:\n  a:\n    kind: openai\n    endpoint: x\n    base: m\n"
            "    card: {role: generalist}\n",
            ("endpoint 'x'", "none are given"),
        ),
        ("agents:\n  a: {kind: vlm}\n", ("line 2", "'openai'", "vlm")),
        ("agents:\n  a: {kind: person}\n", ("generalist is missing",)),
        ("agents: {}\n", ("line 1", "agents")),
        (
            "agents:\n  a: {kind: embedded}\n  b:\n    kind: plugin\n    use: x\n"
            "    card: {role: specialist}\n",
            ("line 6", "must name its modalities"),
        ),
        (
            "agents:\n  a: {kind: embedded}\n  a: {kind: person}\n",
            ("line 3", "given twice", "line 2"),
        ),
        (
            "agents:\n  a: {kind: embedded}\n  b:\n    kind: plugin\n    use: x\n"
            "    card: {role: person}\n",
            ("go together",),
        ),
        ("agents:\n  a: {kind: embedded}\n  b: {kind: plugin, use: x}\n", ("line 3", "card")),
        (
            "endpoints:\n  e: {url: 'file:///etc/passwd'}\nagents:\n  a: {kind: embedded}\n",
            ("line 2", "endpoints.e.url"),
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, said: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as e:
        load_fleet_spec(write(tmp_path, text))
    for part in said:
        assert part in str(e.value)
    assert "fleet show" in e.value.hint


def test_a_fleet_that_is_none_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="embedded"):
        fleet_path("gone.yaml", tmp_path)
    mine = write(tmp_path, "agents: {a: {kind: embedded}}")
    assert fleet_path("fleet.yaml", tmp_path) == mine


@given(st.sampled_from(["least_side", "greatest_side", "images", "text"]), st.integers(-5, 0))
def test_limits_below_one_are_refused(key: str, value: int) -> None:
    from pydantic import ValidationError

    from curbside.agents.fleet_spec import Limits

    with pytest.raises(ValidationError):
        Limits.model_validate({key: value})


def test_the_default_fleet_is_the_stored_one(fleet: Fleet) -> None:
    spec = load_fleet_spec(fleet_path("embedded"))
    opened = open_fleet(spec, stored=lambda: fleet)
    assert spec.only_embedded
    assert opened.fingerprint == fleet.fingerprint
    assert opened.names == fleet.names
    assert opened.serving == fleet.serving
    card = opened.agents[fleet.generalist].card
    assert card.licence and card.intended_use and card.runs_on == ("cpu", "site")
    assert card.fingerprint == fleet.agents[fleet.generalist].card.fingerprint
    assert list(opened.people) == ["reader"]
    said = opened.people["reader"].read(Study(id="x", series=()))
    assert isinstance(said, Abstention)


class _Point:
    name = "odd"

    def load(self) -> Any:
        def make(name: str, card: Any, settings: Any) -> FakeAgent:
            own = AgentCard(name=name, kind="plugin", role=card.role, fingerprint=name * 3)
            return FakeAgent(own, lambda q: None)

        return make


def test_kinds_mix_and_the_first_specialist_serves(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "entry_points", lambda group: [_Point()])
    spec = load_fleet_spec(write(tmp_path, MIXED))
    opened = open_fleet(spec, stored=lambda: fleet)
    assert opened.specialists == {"discs": "specialist-discs", "dots": "odd"}
    assert opened.colleagues == ()
    second = spec.model_copy(update={"generalist": "generalist-full"})
    # whoever else is a generalist may be asked for a second opinion
    assert open_fleet(second, stored=lambda: fleet).colleagues == ("big",)
    assert open_fleet(second, stored=lambda: fleet).serving[-1] == "big"
    assert opened.serving == ("specialist-discs", "odd", "big")
    assert opened.names == ("specialist-discs", "generalist-full", "odd", "big")
    assert opened.fingerprint != fleet.fingerprint
    assert opened.agents["specialist-discs"].card.licence == "mine"
    changed = spec.model_copy(update={"generalist": "generalist-full"})
    assert open_fleet(changed, stored=lambda: fleet).fingerprint != opened.fingerprint
    with pytest.raises(ConfigError, match="none of the fleet's agents"):
        open_fleet(spec.model_copy(update={"generalist": "no"}), stored=lambda: fleet)


def test_agents_of_one_endpoint_share_its_breaker_and_its_crowd() -> None:
    spec = load_fleet_spec(fleet_path("vllm-one-gpu"))
    opened = open_fleet(spec, stored=lambda: pytest.fail("nothing is trained")).agents
    engines = {n: a.engine for n, a in opened.items() if isinstance(a, VisionAgent)}
    ends = {n: e.endpoint for n, e in engines.items() if isinstance(e, EndpointEngine)}
    assert len(ends) == 4
    assert ends["qwen-vl"] is ends["qwen-vl-derm"] is ends["qwen-vl-histology"]
    assert ends["medgemma"] is not ends["qwen-vl"]
    models = {n: e.model for n, e in engines.items() if isinstance(e, EndpointEngine)}
    assert models["qwen-vl-derm"] == "derm" and models["qwen-vl-histology"] == "histology"


def test_a_pattern_that_fits_nothing_is_said(fleet: Fleet) -> None:
    spec = FleetSpec.model_validate({"agents": {"a": {"kind": "embedded", "include": ["zz*"]}}})
    with pytest.raises(ConfigError, match="zz"):
        open_fleet(spec, stored=lambda: fleet)


def test_kinds_are_a_table_and_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in KINDS.items():
        lacking = [m for m in kind.needs if find_spec(m) is None]
        # Only what an extra brings may be missing from the environment of `make test`.
        assert not lacking or kind.extra
        assert kind_problem(name) == (f"not installed: {', '.join(lacking)}" if lacking else "")
        if not lacking:
            assert callable(opener(name))
    monkeypatch.setattr(kinds, "find_spec", lambda m: None)
    assert "httpx2" in kind_problem("openai")
    with pytest.raises(MissingExtra):
        opener("openai")


def test_plugins_of_one_name_and_of_no_name_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "entry_points", lambda group: [_Point(), _Point()])
    with pytest.raises(ConfigError, match="two installed packages"):
        kinds.plugins()
    monkeypatch.setattr(kinds, "entry_points", lambda group: [])
    spec = FleetSpec.model_validate(
        {
            "generalist": "b",
            "agents": {"b": {"kind": "plugin", "use": "zz", "card": {"role": "generalist"}}},
        }
    )
    with pytest.raises(ConfigError, match="published: none"):
        open_fleet(spec, stored=lambda: pytest.fail("not needed"))


def test_who_can_be_asked(tmp_path: Path) -> None:
    spec = load_fleet_spec(write(tmp_path, MIXED))
    stored = ["generalist-16", "specialist-discs", "generalist-full"]
    assert spec.askable(stored) == ("specialist-discs", "generalist-full", "odd", "big")
    assert load_fleet_spec(fleet_path("embedded")).askable(stored) == tuple(stored)
    assert "qwen-vl" in load_fleet_spec(fleet_path("vllm-one-gpu")).askable(())
