"""Few-shot curves as lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curbside.agents.trunk import trunk_parameters
from curbside.evals.curves import Curves, Gain, Point, shots_name

__all__ = ["lines"]


def lines(curves: Curves) -> list[str]:
    """For people: a row an arm, then the crossings by task."""
    out = ["accuracy, macro over modalities, mean (lowest to highest draw)"]
    levels = sorted({p.shots for p in curves.points})
    out.append(f"{'':<12}" + "".join(f"{shots_name(k):>20}" for k in levels))
    for arm in curves.crossings:
        cells = []
        for k in levels:
            v = curves.accuracy(arm, k)
            low, high = (min(v), max(v)) if v else (0.0, 0.0)
            text = f"{100 * np.mean(v):.1f} ({100 * low:.1f}–{100 * high:.1f})" if v else "–"
            cells.append(f"{text:>20}")
        out.append(f"{arm:<12}" + "".join(cells))
    out += ["", "what it takes: labels, share of numbers that are learned, seconds, peak memory"]
    for arm in curves.crossings:
        for k in levels:
            made = curves.of(arm, k)
            if made:
                out.append(f"{arm:<12}{shots_name(k):>4}  {_taken(made)}")
    out += ["", "generalist minus linear probe at equal labels, points, 95 % by group"]
    out += [
        f"{shots_name(g.shots):>4}  {100 * g.delta:+.1f} [{100 * g.low:+.1f}, {100 * g.high:+.1f}]"
        f"  {g.draws} draws  {_said(g)}"
        for g in curves.gains
    ] or ["  not assessable yet"]
    out += ["", "labels of the modality until its specialist is matched (–: never)"]
    out.append(f"{'modality':<28}{'specialist':>11}" + "".join(f"{a:>12}" for a in curves.met))
    for name, level in sorted(curves.specialists.items()):
        cells = ["–" if (m := curves.met[a][name]) is None else f"{m:.0f}" for a in curves.met]
        out.append(f"{name:<28}{100 * level:>10.1f} " + "".join(f"{c:>12}" for c in cells))
    out += ["", "labels of the task until the specialist is matched (–: never)"]
    head = f"{'task':<28}{'specialist':>11}"
    out.append(head + "".join(f"{a:>12}" for a in curves.crossings))
    for task, level in sorted(curves.specialist.items()):
        met = [curves.crossings[a][task] for a in curves.crossings]
        cells = ["–" if m is None else f"{m:.0f}" for m in met]
        out.append(f"{task:<28}{100 * level:>10.1f} " + "".join(f"{c:>12}" for c in cells))
    if curves.unfinished:
        out.append(f"{curves.unfinished} generalists are still to train: run it again to go on")
    return out


def _taken(points: Sequence[Point]) -> str:
    """Labels, share learned, seconds (range over draws) and memory of one arm's points."""
    whole = trunk_parameters()
    share = points[0].trainable / (whole + points[0].trainable)
    seconds = [p.seconds for p in points]
    return (
        f"{sum(points[0].labels.values()):>6} labels  {100 * share:5.1f} %  "
        f"{min(seconds):.0f}–{max(seconds):.0f} s  {max(p.peak_mib for p in points) / 1024:.1f} GiB"
    )


def _said(gain: Gain) -> str:
    if gain.low > 0:
        return "a significant gain"
    return "a significant loss" if gain.high < 0 else "no significant gain"
