"""Filling, keeping and resuming the response matrix."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow.parquet as pq
import pytest

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.errors import InternalError, StorageError
from curbside.evals.matrix import load_responses, question_digest, read_matrix, save_responses
from curbside.study import Question, Study

LABELS = ["a", "b", None]


def studies() -> list[Study]:
    options = [("a", "b"), ("a", "b", "c"), ("a", "b")]
    return [
        Study.from_image(b"x%d" % i, id=f"s{i}", question=Question(options=o, task="t"))
        for i, o in enumerate(options)
    ]


class Counting(FakeAgent):
    """A fake that counts its calls, and can be made to die."""

    def __init__(self, name, answer, *, mark="1", dies=False):
        card = AgentCard(name=name, kind="fake", role="generalist", fingerprint=mark, cost=2)
        super().__init__(card, answer)
        self.calls, self.dies = 0, dies

    def read_batch(self, batch):
        if self.dies:
            raise KeyboardInterrupt
        self.calls += 1
        return super().read_batch(batch)


def first(question):
    rest = len(question.options) - 1
    return [0.7, *([0.3 / rest] * rest)]


def abstains(question):
    return None


def breaks(question):
    raise ValueError("no")


def fill(agents, folder, images=("1", "2", "3")):
    return read_matrix(
        {a.card.name: a for a in agents}, studies(), LABELS, images=images, folder=folder
    )


def test_readings_abstentions_and_failures_stay_apart(tmp_path):
    m = fill([Counting("x", first), Counting("y", abstains), Counting("z", breaks)], tmp_path)
    assert m.agents == ("x", "y", "z")
    assert m.status.tolist() == [[1, 2, 3]] * 3
    assert m.correct[:, 0].tolist() == [True, False, False]
    assert m.truth.tolist() == [0, 1, -1]
    assert m.n_options.tolist() == [2, 3, 2]
    assert m.cost[0].tolist() == [2, 0, 0]


def test_round_trip(tmp_path):
    m = fill([Counting("x", first), Counting("y", abstains)], tmp_path)
    path = tmp_path / "all.parquet"
    save_responses(m, path)
    back = load_responses(path)
    for name in ("status", "probabilities", "n_options", "truth", "confidence", "cost"):
        np.testing.assert_array_equal(getattr(back, name), getattr(m, name), err_msg=name)
    assert (back.cases, back.agents) == (m.cases, m.agents)
    assert pq.read_table(path).num_rows == 6


def test_killed_between_agents_goes_on_with_the_next(tmp_path):
    a, b = Counting("a", first), Counting("b", first, dies=True)
    with pytest.raises(KeyboardInterrupt):
        fill([a, b], tmp_path)
    b.dies = False
    m = fill([a, b], tmp_path)
    assert (a.calls, b.calls) == (1, 1)
    again = fill([a, b], tmp_path)
    assert (a.calls, b.calls) == (1, 1)
    np.testing.assert_array_equal(again.probabilities, m.probabilities)


def test_another_agent_question_or_image_is_read_anew(tmp_path):
    a = Counting("a", first)
    fill([a], tmp_path)
    newer = Counting("a", first, mark="2")
    fill([newer], tmp_path)
    fill([a], tmp_path, images=("1", "2", "other"))
    assert (a.calls, newer.calls) == (2, 1)
    moved = [*reversed(studies())]
    assert question_digest(moved, ["1"] * 3) != question_digest(studies(), ["1"] * 3)


def test_more_cases_are_appended_and_fewer_picked_out(tmp_path):
    a = Counting("a", first)
    asked = studies()

    def some(rows):
        return read_matrix(
            {"a": a},
            [asked[i] for i in rows],
            [LABELS[i] for i in rows],
            images=[str(i) for i in rows],
            folder=tmp_path,
        )

    one = some([0])
    assert a.calls == 1
    three = some([2, 0, 1])  # in another order, with more options than the first had
    assert a.calls == 2
    assert three.cases == ("s2", "s0", "s1")
    assert three.truth.tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(three.probabilities[1, 0, :2], one.probabilities[0, 0])
    again = some([1])
    assert a.calls == 2 and again.n_options.tolist() == [3]
    assert len(list(tmp_path.glob("a-*.parquet"))) == 1


def test_killed_within_an_agent_keeps_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr("curbside.evals.matrix._KEEP", 1)

    class Dies(Counting):
        def read_batch(self, batch):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().read_batch(batch)

    with pytest.raises(KeyboardInterrupt):
        fill([Dies("a", first)], tmp_path)
    a = Counting("a", first)
    assert fill([a], tmp_path).status.tolist() == [[1]] * 3
    assert a.calls == 1  # the third alone


def test_a_torn_column_is_read_again(tmp_path):
    a = Counting("a", first)
    fill([a], tmp_path)
    (file,) = tmp_path.glob("a-*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    fill([a], tmp_path)
    assert a.calls == 2
    with pytest.raises(StorageError, match="no response matrix"):
        (tmp_path / "t.parquet").write_bytes(b"PAR1")
        load_responses(tmp_path / "t.parquet")


def test_disk_full_harms_nothing_stored(tmp_path, monkeypatch):
    path = tmp_path / "m.parquet"
    m = fill([Counting("x", first)], tmp_path)
    save_responses(m, path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("curbside.response_file.pq.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        save_responses(m, path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".m.parquet*"))


def test_an_agent_that_loses_a_study_is_a_bug(tmp_path):
    class Short(Counting):
        def read_batch(self, batch):
            return super().read_batch(batch)[:-1]

    with pytest.raises(InternalError, match="2 responses to 3 studies"):
        fill([Short("s", first)], tmp_path)


def test_nothing_asked_and_nobody_to_ask(tmp_path):
    m = read_matrix({"a": Counting("a", first)}, [], [], images=[], folder=tmp_path)
    assert m.status.shape == (0, 1)
    assert read_matrix({}, studies(), LABELS, images="123", folder=tmp_path).status.shape == (3, 0)
