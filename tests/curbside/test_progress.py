"""The bar counts on stderr and leaves stdout to results."""

from __future__ import annotations

import pytest

from curbside.progress import bar


def test_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("reading", 3) as advance:
        advance(1)
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err and "3/3" in err
    assert len(err.strip().splitlines()) == 1


def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), bar("reading", 3):
        _ = 1 / 0
