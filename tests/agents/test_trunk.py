"""Inputs that agents share: computed once, the same alone as among others."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbside.agents.cost import metered
from curbside.agents.network import UpperNetwork
from curbside.agents.trunk import Inputs, SecondTrunk, Trunk, trunks_fingerprint, trunks_of
from curbside.agents.upper import Recipe, fine_tune, steps_of, upper_blocks
from curbside.indexes.descriptors import DESCRIPTORS
from curbside.indexes.encoder import upper_part
from curbside.study import Study


def same(a: Inputs, b: Inputs) -> bool:
    return all(
        np.array_equal(getattr(a, f), getattr(b, f)) for f in ("pooled", "statistics", "grid")
    )


def test_shapes_and_order(world: Any) -> None:
    trunk = Trunk(world.source)
    studies = world.cases.studies()[:70]
    inputs, failures = trunk.of(studies)
    assert failures == {}
    assert len(inputs) == 70
    assert inputs.pooled.shape == (70, 1280)
    assert inputs.statistics.shape == (70, 992)
    assert inputs.grid.shape == (70, 192, 7, 7)
    assert inputs.fixed.shape == (70, 2272)
    assert inputs.pooled.dtype == np.float32 and inputs.grid.dtype == np.float16
    assert same(inputs, trunk.from_features(world.features, np.arange(70)))
    order = np.random.default_rng(0).permutation(70)
    fresh, _ = Trunk(world.source).of([studies[i] for i in order])
    assert same(fresh, inputs.take(order))


def test_the_second_trunk_gives_the_same_of_another_network(world: Any) -> None:
    trunk = SecondTrunk(world.source)
    studies = world.cases.studies()[:9]
    inputs, failures = trunk.of([*studies, Study.from_image(b"", id="bad")])
    assert set(failures) == {9}
    assert inputs.pooled.shape == (10, 1280)
    assert inputs.statistics.shape == (10, 1072 + DESCRIPTORS)
    assert inputs.grid.shape == (10, 208, 9, 9)
    assert not inputs.fixed[9].any()
    upper = upper_part(network=trunk.network).run(inputs.grid[:9])["pooled"]
    np.testing.assert_allclose(upper, inputs.pooled[:9], atol=0.05)
    # kept beside the encoder's features: another process encodes nothing
    again = SecondTrunk(world.source)
    assert same(again.of(studies)[0], inputs.take(slice(0, 9)))
    assert "_part" not in vars(again.source.encoder)
    first = Trunk(world.source)
    assert len({t.fingerprint for t in trunks_of(world.source).values()}) == 2
    one = trunks_fingerprint({"first": first})
    assert one != trunks_fingerprint({"first": first, "second": trunk})


def test_equal_images_and_failures(world: Any) -> None:
    trunk = Trunk(world.source)
    good = world.cases.studies()[0]
    bad = Study.from_image(b"", id="bad")
    inputs, failures = trunk.of([good, bad, good])
    assert set(failures) == {1}
    assert failures[1].reason == "empty"
    assert same(inputs.take(slice(0, 1)), inputs.take(slice(2, 3)))
    assert not inputs.fixed[1].any()
    nothing, none = trunk.of([])
    assert (len(nothing), none) == (0, {})
    only, one = trunk.of([bad])
    assert (len(only), set(one)) == (1, {0})


def test_few_are_kept_and_none_is_computed_twice(world: Any, monkeypatch: Any) -> None:
    trunk = Trunk(world.source, memory=3)
    computed: list[int] = []
    compute = trunk.from_features

    def counting(features: Any, rows: Any) -> Inputs:
        computed.append(len(rows))
        return compute(features, rows)

    monkeypatch.setattr(trunk, "from_features", counting)
    studies = world.cases.studies()[:5]
    first, _ = trunk.of(studies)
    assert sum(computed) == 5
    assert len(trunk._kept) == 3
    trunk.of(studies[2:])
    assert sum(computed) == 5
    again, _ = trunk.of(studies)
    assert sum(computed) == 7
    assert same(first, again)


def test_a_row_is_the_same_in_any_batch(world: Any) -> None:
    inputs, _ = Trunk(world.source).of(world.cases.studies()[:19])
    network = UpperNetwork({})
    whole = network.features(inputs.grid)
    for size in range(1, 9):
        parts = [network.features(inputs.grid[i : i + size]) for i in range(0, 19, size)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert network.features(inputs.grid[:0]).shape == (0, 1280)
    # and as published it is what the encoder says, but for half-precision grids
    np.testing.assert_allclose(whole, inputs.pooled, atol=0.05)


def test_any_number_of_steps_can_be_trained() -> None:
    """One cycle of the learning rate over one step, and over the five that torch trips on."""
    grid = np.random.default_rng(0).normal(size=(3, 192, 7, 7)).astype(np.float16)
    for epochs in (1, 2, 3, 4, 5, 6, 10):
        import torch

        network, head = upper_blocks(), torch.nn.Linear(1280, 1)
        recipe = Recipe(epochs, 4, 1e-3, 1e-3, 0.0, 0.0)
        steps: list[int] = []
        before = grid.copy()
        fine_tune(
            network,
            head,
            grid,
            lambda f, _, head=head: head(f).square().mean(),  # type: ignore[misc]  # mypy infers none with a default
            recipe,
            seed=0,
            advance=steps.append,
        )
        assert sum(steps) == steps_of(3, recipe) == epochs
        np.testing.assert_array_equal(grid, before)  # flips are of a copy
        assert not network.training


def test_cost_is_measured() -> None:
    with metered() as meter:
        block = np.ones(40 * 2**20 // 8)
        assert block.sum() > 0
    assert 0 < meter.seconds < 5
    assert meter.peak_mib > 40


def test_cost_without_proc(monkeypatch: Any) -> None:
    from pathlib import Path

    def none(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", none)
    monkeypatch.setattr(Path, "write_text", none)
    with metered() as meter:
        pass
    assert meter.peak_mib > 10
