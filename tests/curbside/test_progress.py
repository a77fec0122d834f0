"""The bar counts on stderr and leaves stdout to results."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from curbside import progress
from curbside.progress import bar, growing_steps, steps


def test_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("reading", 3) as advance:
        advance(1)
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err and "3 of 3" in err
    assert len(err.strip().splitlines()) == 1


def test_a_long_run_is_heard_of_before_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
    with bar("training", 4) as advance:
        advance(1)
        assert "training" in (said := capsys.readouterr().err)
        assert "1 of 4" in said and "left" in said
        advance(3)
    assert capsys.readouterr().err.count("4 of 4") == 1


def test_how_many_there_will_be_may_come_to_be_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
    with growing_steps("reading") as (show, expect):
        show(1, "a 1")
        assert "reading: 1, " in capsys.readouterr().err
        expect(3)
        show(1, "a 2")
        said = capsys.readouterr().err
        assert "2 of 3" in said and " s left; a 2" in said
        expect(4)
        show(1, "a 3")
        assert "3 of 4" in capsys.readouterr().err
        show(1, "a 4")
        assert not capsys.readouterr().err
    assert "4 of 4" in capsys.readouterr().err


class Slow(int):
    """A number that another thread can come in between while it is added."""

    def __radd__(self, other: int) -> int:
        time.sleep(0.001)
        return other + int(self)


def test_threads_lose_no_step(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("reading", 80) as show, ThreadPoolExecutor(4) as threads:
        done = [threads.submit(show, Slow(1), "") for _ in range(80)]
    assert [d.result() for d in done] == [None] * 80
    assert "80 of 80" in capsys.readouterr().err


def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), bar("reading", 3):
        _ = 1 / 0
