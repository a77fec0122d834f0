"""Fleet and index: who can read, what the index has seen, and where new cases lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from curbside.config import load_config
from curbside.errors import CurbsideError
from curbside.ui import plots
from curbside.ui.blind import switched_on
from curbside.ui.components import error_state, state, table, tag, text
from curbside.ui.index_facts import (
    AgentRow,
    IndexFacts,
    MapPoints,
    fleet_rows,
    index_facts,
    load_map,
    served_index,
    versions,
)
from curbside.ui.serving import config, recent_records, worker
from curbside.ui.session import colours, frame, where

__all__ = ["page"]


@st.cache_data(show_spinner=False, ttl=300)
def _agents(home: str, changed: tuple[float, ...]) -> list[AgentRow]:
    return fleet_rows(Path(home), load_config(Path(home) / "curbside.yaml"))


def page() -> None:
    """See the module."""
    frame("Fleet & index")
    home = where()
    stores = config().stores
    agents, index, chart = st.tabs(["Agents", "Index", "Map"])
    with agents:
        seen = (
            home / stores.fleet / "fleet.json",
            home / "curbside.yaml",
            home / config().fleet.file,
        )
        try:
            with st.skeleton(height=240):
                rows = _agents(str(home), tuple(map(_changed, seen)))
            _agents_table(rows, _answered())
        except CurbsideError as e:
            st.html(error_state(e.message, "", e.hint))
        _cards()
        _check()
    try:
        facts = index_facts(served_index(home, config()))
    except CurbsideError as e:
        for tab in (index, chart):
            with tab:
                st.html(error_state(e.message, "", e.hint))
        return
    with index:
        _composition(facts)
    with chart:
        _map(facts)


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


def _answered() -> dict[str, bool]:
    """Agent → whether every check of it worked when the worker last asked."""
    job = next(iter(worker().jobs("check")), None)
    out: dict[str, bool] = {}
    for f in job.result["findings"] if job is not None and job.state == "done" else ():
        if f["ok"] is not None:
            out[f["agent"]] = out.get(f["agent"], True) and f["ok"]
    return out


def _health(row: AgentRow, answered: dict[str, bool]) -> str:
    """Files are looked at here; whether an agent answers is known only once it was asked."""
    if row.problem:
        return '<span class="cb-mark cb-unsafe">✕ damaged</span>'
    if answered.get(row.name) is False:
        return '<span class="cb-mark cb-unsafe">✕ does not answer</span>'
    if not row.declared:
        return '<span title="its files are whole">✓</span>'
    if row.name in answered:
        return '<span title="it answered when it was last asked">✓ answers</span>'
    return '<span class="cb-quiet" title="nothing of it is stored here: ask it">unknown</span>'


def _agents_table(rows: Sequence[AgentRow], answered: dict[str, bool]) -> None:
    bad = [r for r in rows if r.problem]
    if bad:
        st.html(
            error_state(
                f"{len(bad)} of {len(rows)} agents cannot be used",
                "; ".join(r.problem for r in bad),
                "curbside build --cases MANIFEST",
            )
        )
    head = ("", "agent", "role", "reads", "tasks", "cost", "labels", "trainable", "build", "peak")
    body = [
        [
            _health(r, answered),
            f'<b style="font-weight:600">{text(r.name)}</b> '
            + (tag("serves") if r.serves else "")
            + f'<br><span class="cb-quiet cb-small cb-id">{text(r.declared or r.fingerprint[:12])}'
            "</span>",
            text(r.role),
            text(", ".join(r.modalities) or "any"),
            str(r.tasks) if r.tasks or not r.declared else "any",
            f"{r.cost:g}",
            *(
                ("–",) * 4
                if r.declared
                else (
                    f"{r.labels:,}",
                    f"{r.parameters:,}",
                    f"{r.seconds:.0f} s",
                    f"{r.peak_mib:,.0f} MiB",
                )
            ),
        ]
        for r in sorted(rows, key=lambda r: not r.serves)
    ]
    st.html(table(head, body, numbers=range(4, 10)))
    st.caption(
        "✓: every file matches its checksum; unknown: an agent that is not stored here and was not "
        "asked yet. Cost is in the fleet's unit a study; labels, "
        "trainable parameters, seconds and peak memory are those of its training."
    )
    limits = sorted({r.limits for r in rows if r.limits})
    for limit in limits:
        st.caption(limit)


def _cards() -> None:
    """One page an agent: what it is, what it cost, what it got right."""
    job = next(iter(worker().jobs("cards")), None)
    if job is None or job.state == "failed":
        if job is not None:
            st.html(error_state("The model cards could not be made", job.error, job.hint))
        if st.button("Model cards", icon=":material/badge:"):
            worker().submit("cards", "Model cards")
            st.rerun()
    elif job.state == "done":
        pages = job.result["cards"]
        name = st.selectbox("Model card", list(pages), index=None, placeholder="Choose an agent")
        if name is not None:
            with st.container(border=True):
                st.markdown(pages[name])
    else:
        _until_done("cards")


def _check() -> None:
    """Whether agents answer, remote ones too: the worker asks each of them something."""
    job = next(iter(worker().jobs("check")), None)
    busy = job is not None and not job.ended
    if st.button("Ask every agent something", icon=":material/stethoscope:", disabled=busy):
        worker().submit("check", "Check of the fleet")
        st.rerun()
    if job is None:
        return
    if job.state == "failed":
        st.html(error_state("The fleet could not be checked", job.error, job.hint))
    elif job.state == "done":
        words = {True: "✓ works", False: "✕ does not", None: "– not looked at"}
        body = [
            [
                f'<b style="font-weight:600">{text(f["agent"])}</b>',
                text(f["check"]),
                f'<span class="{"cb-mark cb-unsafe" if f["ok"] is False else ""}">'
                f"{words[f['ok']]}</span>",
                text(f["said"]) + (f"<br>next: {text(f['mend'])}" if f["mend"] else ""),
            ]
            for f in job.result["findings"]
        ]
        st.html(table(("agent", "check", "", "what it said"), body))
    else:
        _until_done("check")


@st.fragment(run_every=0.7)
def _until_done(kind: str) -> None:
    """Looks at the worker; computes nothing."""
    job = next(iter(worker().jobs(kind)), None)
    if job is None or job.ended:
        st.rerun()
    else:
        told = f"{job.done} of {job.total} agents asked" if job.total else "opening the models"
        st.progress(job.done / job.total if job.total else 0.0, text=told)


def _composition(facts: IndexFacts) -> None:
    left, right = st.columns([1.3, 1], gap="large")
    with left:
        st.markdown(f"##### {facts.cases:,} indexed cases by modality")
        most = max(facts.by_modality.values(), default=1)
        ordered = sorted(facts.by_modality.items(), key=lambda x: -x[1])
        st.html(
            "".join(
                '<div class="cb-row" style="grid-template-columns:11rem 1fr 3.5rem 8.5rem;'
                f'min-height:1.6rem"><span>{text(m)}</span><span class="cb-bar">'
                f'<i style="width:{100 * n / most:.1f}%"></i></span>'
                f'<span class="cb-num" style="text-align:right">{n:,}</span>'
                f'<span class="cb-quiet cb-small">{_stratum(facts, m)}</span></div>'
                for m, n in ordered
            )
        )
    with right:
        st.markdown("##### What serves")
        pairs = (
            ("made", facts.created.replace("T", " ")[:16] + " UTC"),
            ("novelty score", facts.novelty),
            ("neighbours", str(facts.neighbours)),
            ("dimensions", str(facts.dimensions)),
            ("index", facts.digest[:16]),
            ("calibration", facts.calibration[:16]),
            ("encoder", facts.encoder[:16]),
        )
        st.html(
            table(
                ("", ""),
                [
                    [f'<span class="cb-quiet">{k}</span>', f'<span class="cb-id">{text(v)}</span>']
                    for k, v in pairs
                ],
            )
        )
        _versions()
        st.caption(
            "A modality with too few calibration cases has no p-values of its own: those of all "
            "modalities together serve, and every record says so."
        )


def _versions() -> None:
    st.markdown("##### Versions")
    rows = [
        [
            f'<span class="cb-id">{text(v.name[:10])}</span> '
            + (tag("serves") if v.serves else ""),
            text(v.created),
            f"{v.cases:,}" + (f" (+{v.added:,})" if v.added else ""),
            text(v.why or "never served"),
        ]
        for v in versions(where(), config())
    ]
    st.html(table(("version", "made", "cases", "how it came to serve"), rows, numbers=[2]))


def _stratum(facts: IndexFacts, modality: str) -> str:
    n = facts.by_stratum.get(modality)
    return f"calibrated on {n}" if n else "pooled calibration"


def _map(facts: IndexFacts) -> None:
    points = load_map(facts.digest, where())
    if points is not None:
        _draw(points)
        return
    jobs = worker().jobs("map")
    job = jobs[0] if jobs else None
    if job is None or (job.state == "done"):
        worker().submit("map", "Map of the index")
    elif job.state == "failed":
        st.html(error_state("The map could not be drawn", job.error, job.hint))
        if st.button("Try again"):
            worker().submit("map", "Map of the index")
            st.rerun()
        return
    _waiting(facts)


@st.fragment(run_every=1.0)
def _waiting(facts: IndexFacts) -> None:
    if load_map(facts.digest, where()) is not None:
        st.rerun()
    job = next(iter(worker().jobs("map")), None)
    if job is not None and job.state == "failed":
        st.rerun()
    st.html(state("Drawing the map", "Once for each index; the rest of the console goes on."))
    st.skeleton(height=360)


def _draw(points: MapPoints) -> None:
    groups: dict[str, tuple[list[float], list[float], list[str]]] = {}
    for (x, y), m, label in zip(points.at.tolist(), points.modalities, points.labels, strict=True):
        xs, ys, words = groups.setdefault(m, ([], [], []))
        xs.append(x)
        ys.append(y)
        words.append(label or "no label")
    new: tuple[list[float], list[float], list[str]] = ([], [], [])
    for record in recent_records(200):
        place = points.place([(n.case, n.similarity) for n in record.neighbours])
        if place is not None:
            new[0].append(place[0])
            new[1].append(place[1])
            # neighbours have labels: who reads blind is not told which case lies among them
            named = "a new case" if switched_on() else record.case
            new[2].append(f"{named}: {record.modality}, {record.outcome.status}")
    st.plotly_chart(
        plots.embedding_map(dict(sorted(groups.items())), new, colours()),
        theme=None,
        key="map",
        config={"displaylogo": False, "scrollZoom": True},
    )
    st.caption(
        f"{len(points.ids):,} indexed cases (t-SNE of the served vectors); rings are the "
        f"{len(new[0])} newest cases of the ledger, placed among their neighbours. Groups mean "
        "something, distances between them do not."
    )
