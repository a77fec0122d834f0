"""Class activation: sums to the logit, moves the answer when deleted, and dies with the weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curbside.agents.activation import activation, overlay
from curbside.agents.embedded import EmbeddedAgent
from curbside.agents.fleet import Fleet
from curbside.agents.heads import Heads
from curbside.agents.network import UpperNetwork
from curbside.agents.readers import SpecialistReader, read
from curbside.agents.trunk import Inputs
from curbside.readings import Explanation
from curbside.study import Question

DISCS = Question(options=("benign", "malignant", "normal"), task="discs_size")
EXPLAINED = ("specialist-discs", "generalist-full", "linear-full", "specialist-stripes")


def reader_of(fleet: Fleet, name: str) -> Any:
    agent = fleet.agents[name]
    assert isinstance(agent, EmbeddedAgent)
    return agent.reader


@pytest.fixture(scope="module")
def inputs(world: Any, fleet: Fleet) -> Inputs:
    agent = fleet.agents["specialist-discs"]
    assert isinstance(agent, EmbeddedAgent)
    rows = world.cases.where(role="test", modality="discs")
    found, failures = agent._trunk.of(world.cases.take(rows).studies())
    assert not failures
    return found


def one(inputs: Inputs, i: int) -> Inputs:
    return inputs.take(slice(i, i + 1))


def grid_of(reader: Any, inputs: Inputs, option: str) -> np.ndarray:
    found = activation(reader, inputs, DISCS, option)
    assert found.kind == "class_activation" and 0 <= found.share <= 1
    return np.asarray(found.grid)


def test_places_sum_to_the_logit_of_a_pooled_head(fleet: Fleet, inputs: Inputs) -> None:
    """Exact: the parts of all places are the option's logit against the others' mean."""
    reader = reader_of(fleet, "specialist-discs")
    assert isinstance(reader, SpecialistReader)
    head = reader.own["discs_size"]
    for i in range(4):
        row = one(inputs, i)
        logits = head.logits(reader.network.features(row.grid))[0]
        constant = head.bias - head.weight @ (head.mean / head.scale)
        placed = dict(zip(head.labels, logits - constant, strict=True))
        for option in DISCS.options:
            rest = np.mean([placed[o] for o in DISCS.options if o != option])
            total = grid_of(reader, row, option).sum()
            assert total == pytest.approx(placed[option] - rest, abs=2e-3)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_kind_is_explained_and_options_balance(
    fleet: Fleet, inputs: Inputs, name: str
) -> None:
    reader = reader_of(fleet, name)
    grids = [grid_of(reader, one(inputs, 0), o) for o in DISCS.options]
    assert all(g.shape == (7, 7) for g in grids)
    assert np.abs(sum(grids)).max() < 1e-4, "what speaks for one speaks against the others"
    assert np.abs(grids[0]).max() > 0


def deleted(inputs: Inputs, places: np.ndarray) -> Inputs:
    """The grid with some places replaced by the mean of all."""
    grid = inputs.grid.copy()
    mean = grid.astype(np.float32).mean((2, 3))[0].astype(np.float16)
    grid[0][:, places] = mean[:, None]
    return Inputs(inputs.pooled, inputs.statistics, grid)


@pytest.mark.parametrize("name", ["specialist-discs", "generalist-full"])
def test_deleting_what_speaks_for_the_answer_costs_more_than_what_does_not(
    fleet: Fleet, inputs: Inputs, name: str
) -> None:
    """Deletion (Petsiuk et al., RISE, 2018), on the grid that the branch is run from."""
    reader = reader_of(fleet, name)

    def adapted(row: Inputs) -> NDArray[np.float32]:
        ((found, _),) = reader.opinions(row, [DISCS])
        logarithms: NDArray[np.float32] = np.log(found + 1e-9)
        return logarithms

    drops = {"most": 0.0, "least": 0.0}
    for i in range(len(inputs)):
        row = one(inputs, i)
        before = adapted(row)
        at = int(before.argmax())
        order = grid_of(reader, row, DISCS.options[at]).ravel().argsort()
        for which, cells in (("most", order[-12:]), ("least", order[:12])):
            places = np.zeros(49, bool)
            places[cells] = True
            drops[which] += before[at] - adapted(deleted(row, places.reshape(7, 7)))[at]
    assert drops["most"] > drops["least"]
    assert drops["most"] > 0


def test_a_model_of_random_weights_is_explained_otherwise(fleet: Fleet, inputs: Inputs) -> None:
    """Randomisation (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018)."""
    reader = reader_of(fleet, "specialist-discs")
    rng = np.random.default_rng(0)
    shuffled = {
        k: rng.permutation(v.ravel()).reshape(v.shape) for k, v in reader.network.learned.items()
    }
    random = copy.copy(reader)
    random.network, random.own = UpperNetwork(shuffled), Heads(reader.own)
    head = random.own["discs_size"]
    random.own["discs_size"] = replace(
        head, weight=rng.permutation(head.weight.ravel()).reshape(head.weight.shape)
    )
    alike = []
    for i in range(len(inputs)):
        row = one(inputs, i)
        true, other = (grid_of(r, row, "malignant").ravel() for r in (reader, random))
        again = grid_of(reader, row, "malignant").ravel()
        assert (true == again).all()
        alike.append(abs(np.corrcoef(true, other)[0, 1]))
    assert np.mean(alike) < 0.6


def test_what_is_not_known_is_said(world: Any, fleet: Fleet, inputs: Inputs) -> None:
    reader = reader_of(fleet, "specialist-discs")
    unknown = Question(options=("giraffe", "teapot"))
    assert activation(reader, one(inputs, 0), unknown, "giraffe").kind == "none"
    assert read(reader, one(inputs, 0), [unknown]) == [None]
    generalist = reader_of(fleet, "generalist-full")
    named = activation(generalist, one(inputs, 0), unknown, "giraffe")
    assert named.kind == "class_activation" and named.share == 1.0
    linear = reader_of(fleet, "linear-full")
    assert activation(linear, one(inputs, 0), unknown, "giraffe").kind == "none"


def test_an_agent_explains_a_study(world: Any, fleet: Fleet, tmp_path: Any) -> None:
    rows = world.cases.where(role="test", modality="discs")
    study = replace(world.cases.take(rows).studies()[0], question=DISCS)
    agent = fleet.agents["specialist-discs"]
    assert isinstance(agent, EmbeddedAgent)
    found = agent.explain(study, "normal")
    assert found.option == "normal" and len(found.grid) == 7
    assert agent.explain(study, "other").kind == "none"
    assert agent.explain(replace(study, series=()), "normal").kind == "none"


def test_the_overlay_is_orange_where_it_speaks_for_and_blue_where_against() -> None:
    grid = [[0.0] * 7 for _ in range(7)]
    grid[0][0], grid[6][6] = 2.0, -2.0
    picture = np.full((70, 70, 3), 100, np.uint8)
    rows = tuple(tuple(r) for r in grid)
    shown = overlay(picture, Explanation(kind="class_activation", option="x", grid=rows))
    assert shown.shape == picture.shape and shown.dtype == np.uint8
    assert shown[4, 4, 0] > shown[4, 4, 2] + 50
    assert shown[66, 66, 2] > shown[66, 66, 0] + 50
    assert (shown[35, 35] == 100).all()
    assert overlay(picture, Explanation(kind="none")) is picture
