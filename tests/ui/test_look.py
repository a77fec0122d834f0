"""Palette, marks and pieces of HTML: never by colour alone, never unescaped, never green."""

from __future__ import annotations

import colorsys
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curbside.ui
from curbside import RESEARCH_USE
from curbside.readings import Status
from curbside.ui import charts, components, plots
from curbside.ui.theme import MARKS, PALETTES, css, palette

FOLDER = Path(curbside.ui.__file__).parent


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read_on_its_ground(mode):
    p = PALETTES[mode]
    for name in ("ink", "quiet", "accent", "answered", "review", "unread", "unsafe"):
        for ground in (p.ground, p.panel):
            assert contrast(getattr(p, name), ground) >= 4.5, (name, ground)
    for colour in p.series:
        assert contrast(colour, p.ground) >= 2.0


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_no_state_is_green(mode):
    for mark in MARKS.values():
        colour = getattr(PALETTES[mode], mark.token)
        hue = colorsys.rgb_to_hsv(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]
        assert not 80 / 360 < hue < 170 / 360


def test_every_status_has_its_own_shape_word_and_colour():
    assert set(MARKS) == set(Status)
    for part in ("shape", "word", "token", "glyph"):
        assert len({getattr(m, part) for m in MARKS.values()}) == len(Status)
    unread = components.mark(Status.NOT_ANALYSED)
    assert "cb-hollow" in unread and "Not analysed" in unread and "no negative" in unread
    assert "negative" not in components.mark(Status.ANSWERED)


def test_the_theme_file_and_the_palette_agree():
    config = tomllib.loads((FOLDER / ".streamlit" / "config.toml").read_text())
    assert config["browser"]["gatherUsageStats"] is False
    assert config["client"]["showErrorDetails"] == "none"
    for mode in ("light", "dark"):
        theme, p = config["theme"][mode], PALETTES[mode]
        assert (theme["backgroundColor"], theme["textColor"]) == (p.ground, p.ink)
        assert (theme["primaryColor"], theme["borderColor"]) == (p.accent, p.line)


def test_the_sheet_uses_only_colours_of_the_palette():
    sheet = css("dark")
    defined = set(re.findall(r"(--cb-[a-z0-9-]+):", sheet))
    assert set(re.findall(r"var\((--cb-[a-z0-9-]+)\)", sheet)) <= defined
    assert palette("dark").ground in sheet and palette(None) == PALETTES["light"]


@given(st.text())
def test_nothing_from_outside_is_markup(words):
    for made in (
        components.tag(words),
        components.state(words, words, words),
        components.error_state(words, words, words),
        components.mark(Status.ANSWERED, words),
        charts.bars([(words, 0.5)]),
        charts.whiskers([charts.Whisker(words, 0.5, 0.4, 0.6, 10)]),
    ):
        assert "<script" not in made
        assert "<img" not in made
    assert components.text("<b>&'") == "&lt;b&gt;&amp;&#x27;"


def test_the_banner_names_the_use_and_the_phantoms():
    assert RESEARCH_USE in components.banner()
    assert "Phantoms" in components.banner(phantoms=True)


def test_the_histogram_says_in_words_what_it_draws():
    scores = np.linspace(0, 10, 101)
    drawn = charts.calibration_histogram(scores, 9.05, 9.5, p_value=0.108, stratum="ct")
    assert "101 calibration cases of ct; 10 are at least as strange" in drawn
    assert "novel from here" in drawn and "p = 0.108" in drawn
    open_ended = charts.calibration_histogram(scores, 50, np.inf, p_value=0.01, stratum="ct")
    assert "novel from here" not in open_ended


def test_whiskers_stay_on_their_axis_and_mark_the_reader():
    drawn = charts.whiskers(
        [
            charts.Whisker("a", 0.7, -0.5, 1.5, 9, chosen=True),
            charts.Whisker("b" * 40, 0.5, 0, 1, 1),
        ]
    )
    assert 'font-weight="600">a<' in drawn
    assert "…" in drawn
    xs = [float(x) for x in re.findall(r'x[12]="([\d.]+)"', drawn)]
    assert min(xs) >= 150 and max(xs) <= 394


def test_tables_set_numbers_right():
    made = components.table(("a", "n"), [["x", "1"]], numbers=[1])
    assert "<td>x</td><td class=n>1</td>" in made


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_lines_are_told_apart_by_more_than_colour_and_text_is_the_modes_own(mode):
    p = palette(mode)
    curves = {f"arm {i}": [0.1, 0.2] for i in range(14)}
    figure = plots.deferral(curves, [0.0, 1.0], p)
    looks = {(t.line.color, t.line.dash) for t in figure.data}
    assert len(looks) == 14
    assert figure.layout.font.color == p.ink
    assert figure.layout.yaxis.title.font.color == p.quiet
    assert figure.layout.yaxis.title.text == "net benefit a case"
    points = {f"m{i}": ([0.0], [0.0], ["x"]) for i in range(9)}
    chart = plots.embedding_map(points, None, p)
    for trace in chart.data:
        opacity = trace.marker.opacity

        def mixed(a: str, b: str, o: float = opacity) -> str:
            parts = [(int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5)]
            return "#" + "".join(f"{round(o * x + (1 - o) * y):02x}" for x, y in parts)

        assert contrast(mixed(trace.marker.color, p.ground), p.ground) >= 3.0, trace.name
