"""Many studies at once: the records of single ones, however they come and whoever else works."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_router_world import TASKS, World, make_world, picture, plain, strange

from curbside.config import AveragePolicy, CascadePolicy, CompetencePolicy, TierPolicy
from curbside.errors import CasesError, StorageError, UserError
from curbside.readings import CaseRecord
from curbside.router import flow
from curbside.router.api import Router
from curbside.router.desk import RouterDesk
from curbside.router.ledger import Ledger
from curbside.router.parts import SCHEMA, table_of
from curbside.study import Question, Study

POLICIES = (
    TierPolicy(minimum_support=20),
    TierPolicy(minimum_support=20, alpha=0.6, floor=0.75),
    TierPolicy(alpha=0),
    CompetencePolicy(),
    CompetencePolicy(floor=0.9, alpha=0.3),
    CascadePolicy(minimum_support=20, escalate_below=0.9),
    AveragePolicy(floor=0.5),
)


#: No two examples share an id: the ledger would know the second one's cases.
_NUMBER = itertools.count()


@st.composite
def studies(draw: st.DrawFn) -> list[Study]:
    made = []
    for i in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from([*TASKS, "strange", "empty", "broken", "bare"]))
        seed = draw(st.integers(5000, 5020))
        raw = {"strange": strange(seed), "empty": b"", "broken": b"no image"}.get(kind)
        task = kind if kind in TASKS else "lungs"
        modality = {"bones": "xray", "lungs": "ct", "skin": "photo"}[task]
        question = Question() if kind == "bare" else Question(options=TASKS[task], task=task)
        source = picture(modality, draw(st.integers(0, 1)), seed) if raw is None else raw
        study = Study.from_image(source, question=question, id=f"case-{next(_NUMBER)}-{i}")
        tags = {"Modality": draw(st.sampled_from(["CT", "DX", "XC"]))}
        lost = draw(st.sampled_from([(), ("truncated",)]))
        made.append(replace(study, tags=tags, incomplete=lost))
    return made


@pytest.fixture(scope="module")
def shaky() -> World:
    """Agents that answer, abstain and fail by what is asked."""

    def fails(_: Any) -> Any:
        raise RuntimeError

    return make_world(
        {
            "specialist-xray": lambda q: [0.55, 0.45] if q.task == "bones" else None,
            "specialist-ct": lambda q: None if "clear" in q.options else [0.5, 0.5],
            "generalist": lambda q: fails(q) if "mole" in q.options else [0.1, 0.9],
        }
    )


@pytest.fixture(scope="module", params=POLICIES, ids=lambda p: p.kind)
def routers(
    shaky: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Router, Router]]:
    home = tmp_path_factory.mktemp("homes")
    batch, alone = (shaky.router(home / name, request.param) for name in ("batch", "alone"))
    yield batch, alone
    batch.close()
    alone.close()


@settings(max_examples=6, deadline=None)
@given(some=studies())
def test_a_batch_gives_the_records_of_single_studies(
    routers: tuple[Router, Router], some: list[Study]
) -> None:
    batch, alone = routers
    assert [plain(r) for r in batch.decide_batch(some)] == [plain(alone.decide(s)) for s in some]
    together = [plain(r) for r in batch.read_batch(some)]
    assert together == [plain(alone.read(s)) for s in some]
    for study, expected in zip(some, together, strict=True):
        assert plain(batch.ledger.record(study.id)) == expected
        assert plain(alone.ledger.record(study.id)) == expected


def many(n: int) -> list[Study]:
    question = Question(options=TASKS["bones"], task="bones")
    raws = [picture("xray", 0, 6000 + i) for i in range(5)]
    return [Study.from_image(raws[i % 5], question=question, id=f"{i:04d}") for i in range(n)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "BLOCK", 4)


@pytest.mark.usefixtures("small_blocks")
def test_an_iterator_gives_an_iterator_and_runs_only_a_little_ahead(
    world: World, tmp_path: Path
) -> None:
    taken = []

    def source() -> Iterator[Study]:
        for study in many(400):
            taken.append(study.id)
            yield study

    records = world.router(tmp_path).read_batch(source())
    first = list(itertools.islice(records, 4))
    assert [r.case for r in first] == ["0000", "0001", "0002", "0003"]
    assert len(taken) < 200
    rest = list(records)
    assert [r.case for r in first + rest] == taken and len(taken) == 400


@pytest.mark.usefixtures("small_blocks")
def test_an_iterator_that_is_left_gives_its_claims_back(world: World, tmp_path: Path) -> None:
    router = world.router(tmp_path)
    records = router.read_batch(iter(many(40)))
    next(records)
    assert isinstance(records, Generator)
    records.close()
    assert threading.active_count() < 20
    others = world.router(tmp_path)
    assert len(others.read_batch(many(40))) == 40
    assert len(world.asked) < 60  # a few blocks of the first were under way


def test_an_asynchronous_iterator_gives_one(world: World, tmp_path: Path) -> None:
    router = world.router(tmp_path)

    async def source() -> AsyncIterator[Study]:
        for study in many(70):
            yield study

    async def collect(records: AsyncIterator[CaseRecord]) -> list[str]:
        return [r.case async for r in records]

    expected = [s.id for s in many(70)]
    assert asyncio.run(collect(router.decide_batch(source()))) == expected
    assert world.asked == []
    assert asyncio.run(collect(router.read_batch(source()))) == expected


def test_tables_give_tables(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(picture("ct", 0, 5000))
    rows = {"id": ["1", "2"], "image": ["a.png", "gone.png"], "task": ["lungs", None]}
    router = world.router(tmp_path / "home")
    frame = router.read_batch(pd.DataFrame(rows))
    assert isinstance(frame, pd.DataFrame)
    assert frame["status"].tolist() == ["answered", "not_analysed"]
    assert frame["error"].isna().tolist() == [True, False]
    assert frame["error"][1] == "image_missing"
    table = router.decide_batch(pa.table(rows))
    assert isinstance(table, pa.Table) and table.schema == SCHEMA
    assert table["route"].to_pylist() == [["specialist-ct"], []]
    with pytest.raises(CasesError, match="line 1"):
        router.read_batch(pd.DataFrame({"image": [""]}))
    # of nothing comes nothing, with the columns that there would be
    empty = router.read_batch(pd.DataFrame({"image": []}))
    assert list(empty.columns) == SCHEMA.names and empty.empty
    with pytest.raises(UserError, match="int is no batch"):
        router.read_batch(3)


def test_a_row_says_what_the_record_says(shaky: World, tmp_path: Path) -> None:
    router = shaky.router(tmp_path, CascadePolicy(minimum_support=20))
    question = Question(options=TASKS["bones"], task="bones")
    record = router.read(Study.from_image(picture("xray", 0, 5000), question=question, id="1"))
    (row,) = table_of([record]).to_pylist()
    assert (row["answer"], row["reader"], row["p_value"]) == (
        record.outcome.answer,
        record.outcome.reader,
        record.familiarity.p_value if record.familiarity else None,
    )
    assert [r["agent"] for r in row["readings"]] == list(record.outcome.route)
    assert row["readings"][0]["probabilities"] == pytest.approx([0.55, 0.45])
    assert row["version_policy"] == record.versions.policy
    assert row["reasons"][0]["code"] == record.outcome.reasons[0].code


@pytest.mark.usefixtures("small_blocks")
def test_two_at_once_share_the_cases(world: World, tmp_path: Path) -> None:
    routers = [world.router(tmp_path) for _ in range(2)]
    found: dict[int, list[CaseRecord]] = {}

    def work(i: int) -> None:
        found[i] = list(routers[i].read_batch(iter(many(60))))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(2):
        assert sorted(r.case for r in found[i]) == [s.id for s in many(60)]
    assert len(world.asked) == 60
    assert {r.case: r for r in found[0]} == {r.case: r for r in found[1]}


@pytest.mark.usefixtures("small_blocks")
def test_few_are_put_off_however_many_another_process_holds(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = world.router(tmp_path)
    monkeypatch.setattr(flow, "_PUT_OFF", 10)
    monkeypatch.setattr(flow, "_POLL", 0.01)
    free, looks, drawn = threading.Event(), itertools.count(), itertools.count()
    real = Ledger.claim

    def claim(self: Any, keys: Any, owner: str, **more: Any) -> set[str]:
        if next(looks) == 30:  # many rounds later
            # a block of those whose sources are remembered, where 30 of the flow's were looked at
            assert next(drawn) <= 64 + 1
            free.set()
        return real(self, keys, owner, **more) if free.is_set() else set()

    monkeypatch.setattr(Ledger, "claim", claim)
    source = (study for study in many(300) if next(drawn) >= 0)
    assert sorted(r.case for r in router.read_batch(source)) == [f"{i:04d}" for i in range(300)]
    assert free.is_set()
    assert len(world.asked) == 300


def test_who_waits_long_for_another_process_looks_less_often(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = world.router(tmp_path)
    slept: list[float] = []
    real = Ledger.claim

    def claim(self: Any, keys: Any, owner: str, **more: Any) -> set[str]:
        # the lease of a machine that is gone; in the middle of it three of the ten are given back
        some = (
            keys if sum(slept) > 600 else keys[:3] if sum(slept) > 300 and len(keys) == 10 else []
        )
        return real(self, some, owner, **more)

    monkeypatch.setattr(Ledger, "claim", claim)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert len(list(router.read_batch(iter(many(10))))) == 10
    assert len(slept) < 300
    assert slept[:2] == [0.2, 0.4]
    assert slept.count(0.2) == 2 and max(slept) == 3.0  # soon again after some have come


def test_a_block_that_outlasts_its_lease_stays_claimed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow agents: another process comes in the middle, after the lease, and gets nothing."""
    router, other = world.router(tmp_path), world.router(tmp_path)
    short: Any = {"claim": 0.3, "renew": 0.3}
    for name, seconds in short.items():
        real = getattr(Ledger, name)
        monkeypatch.setattr(Ledger, name, partialmethod(real, seconds=seconds))
    monkeypatch.setattr(flow, "_RENEW", 0.05)
    real_read = RouterDesk.read_ahead
    taken: list[set[str]] = []

    def slow(self: Any, cases: Any) -> None:
        time.sleep(0.7)
        taken.append(other.ledger.claim([self.key(c) for c in cases], "other"))
        real_read(self, cases)

    monkeypatch.setattr(RouterDesk, "read_ahead", slow)
    records = router.read_batch(many(6))
    assert len(records) == 6
    assert taken == [set()]
    assert len(world.asked) == 6
    assert not any(t.name == "curbside-renew" for t in threading.enumerate())


@pytest.mark.usefixtures("small_blocks")
def test_what_fails_comes_up_and_what_was_recorded_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = world.router(tmp_path)
    calls = []
    real = RouterDesk.read_ahead

    def fails(self: Any, cases: Any) -> None:
        calls.append(cases)
        if len(calls) == 3:
            raise StorageError("the disk is full")
        real(self, cases)

    with monkeypatch.context() as patch:
        patch.setattr(RouterDesk, "read_ahead", fails)
        with pytest.raises(StorageError, match="full"):
            router.read_batch(many(40))
    assert len(list(router.ledger.all())) == 8
    # the desk is clear and the claims are given back
    assert len(router.read_batch(many(40))) == 40
    assert len(world.asked) == 40


def test_what_the_source_raises_comes_up(world: World, tmp_path: Path) -> None:
    def source() -> Iterator[Study]:
        yield from many(3)
        raise UserError("line 4 is bad")

    with pytest.raises(UserError, match="line 4"):
        list(world.router(tmp_path).read_batch(source()))


def test_two_studies_of_one_id_are_refused_in_a_stream_too(world: World, tmp_path: Path) -> None:
    router: Router = world.router(tmp_path)
    with pytest.raises(UserError, match="tell cases apart"):
        list(router.read_batch(iter([*many(3), *many(1)])))
    assert len(router.read_batch(many(3))) == 3
