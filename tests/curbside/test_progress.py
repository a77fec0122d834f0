"""The bar counts on stderr and leaves stdout to results."""

from __future__ import annotations

import pytest

from curbside import progress
from curbside.progress import bar


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


def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), bar("reading", 3):
        _ = 1 / 0
