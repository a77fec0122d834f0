"""The batch bench over the planted world: every number is there and makes sense."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests_router_world import TASKS, World, picture

from curbside.cases import Case, Cases
from curbside.errors import UserError
from curbside.router import batch_bench
from curbside.router.batch_bench import bench_batch


def test_it_measures_on_what_is_built(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    cases = [Case(id=f.stem, image=f, task="bones", options=TASKS["bones"]) for f in files]

    def opened(home: Path, config: Any) -> Any:
        router = world.workspace(home, config)
        return SimpleNamespace(**vars(router), built_cases=lambda: Cases(cases, tmp_path))

    monkeypatch.setattr(batch_bench, "Workspace", opened)
    with pytest.raises(UserError, match="gone"):
        bench_batch(tmp_path, world.config, cases=10, images=4)
    for i, file in enumerate(files):
        file.write_bytes(picture("xray", 0, 5000 + i))
    result = bench_batch(tmp_path, world.config, cases=200, images=4, rounds=1, memory=(100, 300))
    assert (result.decided, result.images, result.reads) == (200, 4, 4)
    assert min(result.decide_rate, result.network_rate, result.encoder_rate, result.ratio) > 0
    assert 0 < result.read_p50 <= result.read_p95
    assert list(result.memory) == [100, 300] and result.to_json()["images"] == 4
    assert not list(tmp_path.glob("*.sqlite"))
