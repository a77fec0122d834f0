"""The memory of a batch on a folder, looked at where it was asked, on the planted world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_router_world import World

from curbside.cli import app
from curbside.errors import UserError
from curbside.indexes.encoder import FakeEncoder
from curbside.router import folder_bench
from curbside.router.folder_bench import Repeated, bench_folder


def test_memory_is_looked_at_after_the_numbers_that_were_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def opened(home: Path, config: Any) -> Any:
        seen.append(config.stores)
        return world.workspace(home, config)

    monkeypatch.setattr(folder_bench, "Workspace", opened)
    shown: list[int] = []
    result = bench_folder(
        tmp_path, world.config, sizes=[70, 10], show=lambda n, note: shown.append(n)
    )
    assert list(result.memory) == [10, 70] and sum(shown) == 70
    assert min(result.memory.values()) > 20 and result.rate > 0
    assert result.to_json() == {"memory": result.memory, "rate": result.rate}
    # the home stays as it was, and what was written is gone
    (stores,) = seen
    for name in ("cache", "ledger", "checkpoints", "sources"):
        assert not Path(getattr(stores, name)).exists()
        assert tmp_path not in Path(getattr(stores, name)).parents
    assert not list(tmp_path.iterdir())


def test_features_given_again_are_those_of_few_images_and_never_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Repeated(FakeEncoder())
    images = [np.zeros((8, 8, 3), np.uint8)] * 200
    features = again.encode(images)
    shape = FakeEncoder().grid_shape
    assert features.grid is not None and shape is not None
    assert features.pooled.shape == (200, again.dimensions)
    assert features.grid.shape == (200, *shape)
    assert features.pooled.dtype == np.float32 and features.grid.dtype == np.float16
    assert len(np.unique(features.pooled, axis=0)) == 200
    unit = features.pooled / np.linalg.norm(features.pooled, axis=1, keepdims=True)
    assert len(np.unique(unit.round(4), axis=0)) <= 64
    assert (again.prepare(images[0]) == FakeEncoder().prepare(images[0])).all()
    # and a batch goes through with them
    encoded: list[int] = []
    real = Repeated.encode

    def encode(self: Repeated, some: Any) -> Any:
        encoded.append(len(some))
        return real(self, some)

    monkeypatch.setattr(Repeated, "encode", encode)
    monkeypatch.setattr(folder_bench, "Workspace", world.workspace)
    assert bench_folder(tmp_path, world.config, sizes=[70], repeated=True).rate > 0
    assert sum(encoded) == 70


@pytest.mark.parametrize("bad", ["", "a", "5,,6", "0", "10,-3", "10000001"])
def test_sizes_that_are_none_are_refused(bad: str) -> None:
    with pytest.raises(UserError, match="not a list of numbers from 1 to 10000000") as e:
        app(["bench", "folder", "--sizes", bad], standalone_mode=False)
    assert repr(bad) in e.value.message and "--sizes 5000,30000" in e.value.hint
