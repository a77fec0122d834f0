"""Policy lab: what another policy would have done on the cases of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from curbside.config import Config, load_config
from curbside.errors import CurbsideError
from curbside.evals.compare import Comparison, compare
from curbside.evals.schema import Summary
from curbside.evals.table import lines, rows
from curbside.ui import lab_numbers, plots
from curbside.ui.blind import switched_on
from curbside.ui.components import error_state, state, table, text
from curbside.ui.runs import (
    EFFECTS,
    POLICIES,
    Move,
    Run,
    Setting,
    Tally,
    find_runs,
    load_run,
    missed,
    moves,
    replay,
    tally,
)
from curbside.ui.session import colours, frame, where

__all__ = ["page"]

_HEAD = ("", "arm", "accuracy", "95 %", "common", "rare", "few-shot", "P2", "calls", "ms")
_SHOWN = 300


@st.cache_resource(max_entries=4, show_spinner=False)
def _run(folder: str, changed: float) -> Run:
    return load_run(Path(folder))


def _load(folder: Path) -> Run:
    return _run(str(folder), (folder / "summary.json").stat().st_mtime)


def page() -> None:
    """See the module."""
    runs = find_runs(where())
    if not runs:
        frame("Policy lab")
        st.html(
            state(
                "No evaluation yet",
                "The lab replays policies over an evaluation's cases. Make one:",
                "curbside eval run --cases MANIFEST --out .curbside/evaluation",
            )
        )
        return
    head = st.container()
    left, right = st.columns([1, 1], gap="medium")
    with left:
        name = st.selectbox("Run", list(runs), key="run", bind="query-params")
    with right:
        other = st.selectbox(
            "Compare with",
            ["–", *[r for r in runs if r != name]],
            key="with",
            bind="query-params",
            help="Another run on the same cases; paired by case id.",
        )
    try:
        with st.skeleton(height=300):
            run = _load(runs[name])
    except CurbsideError as e:
        with head:
            frame("Policy lab")
        st.html(error_state(e.message, "", e.hint))
        return
    with head:
        frame("Policy lab", phantoms=run.summary.phantoms)
    _verdict(run.summary)
    tabs = ["What if", "Table", "Curves", "Calibration", "Regret"]
    tabs += ["Compare"] if other != "–" else []
    drawn = dict(zip(tabs, st.tabs(tabs), strict=True))
    with drawn["What if"]:
        _what_if(run)
    with drawn["Table"]:
        _table(run.summary)
    with drawn["Curves"]:
        _curves(run.summary)
    with drawn["Calibration"]:
        _calibration(run)
    with drawn["Regret"]:
        _regret(run)
    if "Compare" in drawn:
        with drawn["Compare"]:
            _compare(run, _load(runs[other]), name, str(other))


def _verdict(s: Summary) -> None:
    c = s.cases
    st.html(
        f'<div class="cb-outcome"><span class="cb-quiet cb-small">Verdict of this run · '
        f"{c.n_scored} cases with a truth, {c.n_novel} novel · {text(s.generated_at[:10])}</span>"
        f'<div class="cb-answer">{text(s.verdict[:1].upper() + s.verdict[1:])}</div></div>'
    )


# -- what if ---------------------------------------------------------------------------------


def _as_served() -> Setting:
    try:
        return Setting.of(load_config(where() / "curbside.yaml").policy)
    except CurbsideError:
        return Setting.of(Config().policy)


def _what_if(run: Run) -> None:
    if run.recording is None:
        st.html(
            error_state(
                "This run cannot be replayed",
                run.why_not.split("\n")[0],
                "run the evaluation again: curbside eval run",
            )
        )
        return
    _sliders(run)


@st.fragment
def _sliders(run: Run) -> None:
    base = _as_served()
    left, right = st.columns([1, 2.4], gap="large")
    with left:
        st.markdown("##### Setting")
        kind = st.radio(  # five of them: a radio wraps, a segmented control would hide one
            "Policy",
            list(POLICIES),
            index=list(POLICIES).index(base.kind),
            format_func=str.capitalize,
            key="lab_kind",
            horizontal=True,
        )
        alpha = st.slider(
            "α: novel at this p-value or below",
            0.0,
            0.3,
            base.alpha,
            0.005,
            format="%.3f",
            key="lab_alpha",
            help="0 switches the novelty gate off.",
        )
        floor = st.slider(
            "Floor: below it a person reads", 0.0, 1.0, base.floor, 0.01, key="lab_floor"
        )
        changed = {"alpha": alpha, "floor": floor} | _own_sliders(run, base, str(kind))
        st.caption("Compared with the policy as served. Nothing here changes what serves.")
    wanted = replace(base, kind=str(kind), **changed)
    before, after = replay(run, base), replay(run, wanted)
    with right:
        _tallies(tally(run, before), tally(run, after))
        moved, wrong = moves(run, before, after), missed(run, after)
        one, two = st.tabs([f"Cases that move · {len(moved)}", f"What is missed · {len(wrong)}"])
        with one:
            _moves(moved)
        with two:
            st.caption(
                "Answered wrongly under this setting, or novel and answered all the same. "
                "The truth is the manifest's label."
            )
            _cases(wrong, ("case", "modality", "tier", "truth", "after", "effect"))


def _own_sliders(run: Run, base: Setting, kind: str) -> dict[str, Any]:
    """Widgets for what this kind of policy knows beyond α and floor."""
    out: dict[str, Any] = {}
    if Setting.has(kind, "cost_weight"):
        out["cost_weight"] = st.slider(
            "Cost weight: P(correct) given up per unit of cost",
            0.0,
            0.5,
            base.cost_weight,
            0.005,
            format="%.3f",
            key="lab_cost",
        )
        if len(set(run.prices)) < 2:
            st.caption("Every agent costs the same in this run, so this weight moves no case.")
    if Setting.has(kind, "minimum_support"):
        out["minimum_support"] = st.slider(
            "Minimum support: below it the generalist reads",
            0,
            max(400, base.minimum_support),
            base.minimum_support,
            1,
            key="lab_support",
        )
    if Setting.has(kind, "escalate_below"):
        out["escalate_below"] = st.slider(
            "Ask another reader below this confidence",
            0.0,
            1.0,
            base.escalate_below,
            0.01,
            key="lab_second",
        )
    if Setting.has(kind, "escalate_unfamiliar"):
        out["escalate_unfamiliar"] = st.slider(
            "… or at this p-value or below",
            0.0,
            0.6,
            base.escalate_unfamiliar,
            0.01,
            key="lab_unfamiliar",
            help="However sure the first reader is. 0 never asks for this; values up to α do "
            "nothing, since such a case is novel.",
        )
    if Setting.has(kind, "refer_disagreement"):
        out["refer_disagreement"] = st.toggle(
            "A person reads where the two differ",
            base.refer_disagreement,
            key="lab_differ",
        )
    if Setting.has(kind, "weight"):
        out["weight"] = st.slider(
            "Weight of the specialist in the mean", 0.01, 0.99, base.weight, 0.01, key="lab_weight"
        )
    if Setting.has(kind, "colleagues"):
        offered = ["specialist", *run.colleagues]
        known = [c for c in base.colleagues if c in offered]
        asked = st.multiselect(
            "Colleagues that are asked",
            offered,
            default=known if base.kind == kind and known else offered[-1:],
            key="lab_colleagues",
            help="“specialist” is the one of the recognised modality, where there is one.",
        )
        if not asked:
            st.caption("Nobody was chosen: the specialist is asked.")
        out["colleagues"] = tuple(asked) or ("specialist",)
    return out


def _tallies(was: Tally, now: Tally) -> None:
    def percent(v: float) -> str:
        return "–" if math.isnan(v) else f"{100 * v:.1f} %"

    cells = (
        ("Known cases answered", percent(now.answered), percent(was.answered)),
        ("Right when answered", percent(now.accuracy), percent(was.accuracy)),
        ("Answered wrongly", str(now.wrong), str(was.wrong)),
        ("Novel answered", f"{now.novel_answered} of {now.novel}", str(was.novel_answered)),
        ("Held for a person", str(now.held), str(was.held)),
        ("Calls a case", f"{now.calls:.2f}", f"{was.calls:.2f}"),
        ("Net benefit", f"{now.net_benefit:+.3f}", f"{was.net_benefit:+.3f}"),
    )
    inner = "".join(
        f'<div><span class="cb-quiet cb-small">{name}</span><b class="cb-num">{value}</b>'
        f'<span class="cb-quiet cb-small cb-num">{"as served" if value == old else "served " + old}'
        "</span></div>"
        for name, value, old in cells
    )
    st.html(f'<div class="cb-tallies">{inner}</div>')


def _moves(moved: Sequence[Move]) -> None:
    if not moved:
        st.html(state("No case moves", "This setting ends every case as the served policy does."))
        return
    counts = {e: sum(m.effect == e for m in moved) for e in EFFECTS}
    st.html(
        '<div class="cb-legend">'
        + "".join(
            f'<span title="{text(EFFECTS[e])}"><b class="cb-num">{n}</b> {text(e)}</span>'
            for e, n in counts.items()
            if n
        )
        + "</div>"
    )
    _cases(moved, ("effect", "case", "modality", "tier", "truth", "before", "after"))


def _cases(found: Sequence[Move], columns: Sequence[str]) -> None:
    """Read blind first, without truth and answers: a case of the run may be on the worklist."""
    if not found:
        st.html(state("None", "No such case under this setting."))
        return
    if switched_on():
        columns = [c for c in columns if c not in ("truth", "before", "after")]
        st.caption("Blind first is on: truth and answers are not shown.")
    data = pd.DataFrame([{c: getattr(m, c) for c in columns} for m in found[:_SHOWN]])
    data = data.rename(columns={"before": "as served", "after": "under this setting"})
    st.dataframe(data, hide_index=True, height=min(36 * len(data) + 40, 340))
    if len(found) > _SHOWN:
        st.caption(f"The first {_SHOWN} of {len(found)}.")


# -- the run as it stands --------------------------------------------------------------------


def _table(s: Summary) -> None:
    body = [[text(c.strip("▶ ")) if i == 0 else text(c) for i, c in enumerate(r)] for r in rows(s)]
    marked = [["▶" if r[0].startswith("▶") else "", *b] for r, b in zip(rows(s), body, strict=True)]
    st.html(table(_HEAD, marked, numbers=range(2, len(_HEAD))))
    st.caption(
        "Macro over modalities; every arm answers everything. ▶ is the hybrid put forward, chosen "
        "on tune. P2: net benefit at 5, 10 and 20 % deferral."
    )
    st.code("\n".join(lines(s)), language=None)
    for note in s.notes:
        st.caption(note)


def _curves(s: Summary) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("##### Deferral")
        gate = st.segmented_control(
            "Gate", ["novelty", "confidence"], default="novelty", key="lab_gate", required=True
        )
        lines_ = lab_numbers.deferral_lines(s, str(gate))
        if lines_:
            st.plotly_chart(
                plots.deferral(lines_, s.curve_budgets, colours()),
                config={"displayModeBar": False},
                theme=None,
                key="deferral",
            )
        st.caption("Referring more cases helps until right answers are given away.")
    with right:
        st.markdown("##### Cost and quality")
        st.space("medium")
        st.plotly_chart(
            plots.cost_quality(lab_numbers.cost_points(s), colours()),
            config={"displayModeBar": False},
            theme=None,
            key="cost",
        )
        st.caption("Bars are 95 % intervals. Up and left is better.")


def _calibration(run: Run) -> None:
    if run.recording is None:
        st.html(error_state("No readings kept", run.why_not.split("\n")[0], "curbside eval run"))
        return
    curves = lab_numbers.reliability_curves(run)
    if not curves:
        st.html(state("Too few cases", "A reliability curve needs 80 readings of an agent."))
        return
    chosen = st.multiselect(
        "Agents", list(curves), default=list(curves)[-2:], key="lab_agents", max_selections=7
    )
    st.plotly_chart(
        plots.reliability({a: curves[a] for a in chosen}, colours()),
        config={"displayModeBar": False},
        theme=None,
        key="reliability",
    )
    st.caption("Below the dotted line an agent is surer than it is right. Bins of equal size.")


def _regret(run: Run) -> None:
    if run.recording is None:
        st.html(error_state("No readings kept", run.why_not.split("\n")[0], "curbside eval run"))
        return
    counts = lab_numbers.regret_causes(run, replay(run, _as_served()))
    st.markdown("##### Why the served policy was not right")
    st.plotly_chart(
        plots.regret_bars(counts, colours()),
        config={"displayModeBar": False},
        theme=None,
        key="regret",
    )
    st.caption(
        "Solid: another choice among the fleet's readers would have been right, or a novel case "
        "was let through. Hatched: no agent was right, which no router can mend."
    )


def _compare(run: Run, other: Run, name: str, title: str) -> None:
    if run.outcomes is None or other.outcomes is None:
        why = (run if run.outcomes is None else other).why_not.split("\n")[0]
        st.html(error_state("These runs cannot be paired", why, "curbside eval run"))
        return
    left, right = st.columns(2, gap="medium")
    with left:
        a = st.selectbox(
            f"Arm of {name}",
            list(run.outcomes.arms),
            key="lab_a",
            index=list(run.outcomes.arms).index(run.summary.decision.hybrid),
        )
    with right:
        b = st.selectbox(
            f"Arm of {title}",
            list(other.outcomes.arms),
            key="lab_b",
            index=list(other.outcomes.arms).index(other.summary.decision.hybrid),
        )
    try:
        found = compare(run.outcomes, other.outcomes, (a, b), replicates=1000)
    except CurbsideError as e:
        st.html(error_state("These runs cannot be paired", e.message, e.hint))
        return
    _comparison(found)


def _comparison(c: Comparison) -> None:
    def number(v: float | None) -> str:
        return "–" if v is None else f"{v:+.3f}"

    def plain(v: float | None) -> str:
        return "–" if v is None else f"{v:.3f}"

    st.html(
        f'<div class="cb-outcome"><span class="cb-quiet cb-small">{c.n} shared cases in '
        f'{c.n_groups} groups</span><div class="cb-answer">{text(c.a)} against {text(c.b)}: '
        f"{text(c.verdict)}</div></div>"
    )
    body = [
        [
            text(d.stratum),
            text(d.metric),
            str(d.n),
            plain(d.a),
            plain(d.b),
            number(d.delta),
            f"{number(d.ci_low)} … {number(d.ci_high)}",
            text(d.verdict),
        ]
        for d in [*c.overall, *c.strata]
    ]
    head = ("stratum", "metric", "n", "first", "second", "difference", "95 %", "verdict")
    st.html(table(head, body, numbers=range(2, 7)))
