"""The picture of familiar cases flagged."""

from __future__ import annotations

from pathlib import Path

from curbside.evals.band_plot import figure, write_page
from curbside.evals.familiarity import ALPHAS, Band


def planted() -> list[Band]:
    """Two strata at three levels; ``ct`` is above its band at 5 % alone."""
    return [
        Band(s, a, 100, 90, 99, 0.3 if (s, a) == ("ct", 0.05) else a / 2, 0.0, 4 * a)
        for s in ("ct", "all")
        for a in ALPHAS
    ]


def test_each_band_and_dot_is_where_its_numbers_are() -> None:
    made = figure(planted())
    assert [a.text for a in made.layout.annotations] == [
        "promised: at most 1%",
        "promised: at most 5%",
        "promised: at most 10%",
    ]
    assert list(made.layout.yaxis.ticktext) == ["ct", "pooled"]
    of_5 = [t for t in made.data if t.xaxis == "x2"]
    bar, inside, above = of_5
    assert list(bar.x) == [0.0, 0.2, None, 0.0, 0.2, None]
    assert list(bar.y) == [0, 0, None, 1, 1, None]
    assert (list(inside.x), list(inside.y)) == ([0.025], [1])
    assert (list(above.x), list(above.y)) == ([0.3], [0])
    assert made.layout.xaxis2.range[1] > 0.3
    assert [s.x0 for s in made.layout.shapes] == list(ALPHAS)


def test_each_name_is_in_the_legend_once() -> None:
    shown = [t.name for t in figure(planted()).data if t.showlegend]
    assert shown == ["what chance allows", "flagged", "flagged, above"]


def test_the_page_says_how_to_read_it(tmp_path: Path) -> None:
    write_page(planted(), tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert "A wide bar proves little" in text and "Plotly.newPlot" in text
