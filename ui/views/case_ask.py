"""Asking one agent about a case, and sending the case to another one.  The worker does both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from curbside.agents.fleet import read_fleet_file
from curbside.agents.fleet_spec import fleet_path, load_fleet_spec
from curbside.errors import CurbsideError
from curbside.readings import CaseRecord
from curbside.router.entries import Entry
from curbside.ui.charts import bars
from curbside.ui.components import error_state, text
from curbside.ui.serving import config, worker
from curbside.ui.session import reader, where
from curbside.ui.workers import Job

__all__ = ["ask_and_reroute"]

_JOBS = "cb_case_jobs"


def ask_and_reroute(entry: Entry, record: CaseRecord) -> None:
    """Both forms, and what became of what was asked."""
    try:
        agents = _by_competence(_agents(), record)
    except CurbsideError as e:
        st.html(error_state("There is no fleet to ask", e.message, e.hint))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("##### Ask an agent")
        with st.form(f"ask-{entry.study}", border=False):
            st.selectbox("Agent", agents, key=f"ask-agent-{entry.study}")
            st.text_input(
                "Question", placeholder="Is there an effusion?", key=f"ask-text-{entry.study}"
            )
            st.text_input(
                "Answers to choose from",
                placeholder="yes | no",
                key=f"ask-options-{entry.study}",
                help="Agents that score answers need them; leave it empty for an open question.",
            )
            st.form_submit_button("Ask", disabled=not reader(), on_click=_ask, args=(entry.study,))
        st.caption("The answer goes into the story; it does not change the outcome.")
    with right:
        st.markdown("##### Send it to another agent")
        asked = {r.agent for r in record.responses}
        with st.form(f"reroute-{entry.study}", border=False):
            others = [a for a in agents if a not in asked] or agents
            st.selectbox("Agent", others, key=f"reroute-agent-{entry.study}")
            st.form_submit_button(
                "Re-route",
                disabled=not reader(),
                on_click=_reroute,
                args=(entry.study, entry.revision),
            )
        st.caption("Its reading is provisional until you agree with it or override it.")
    _answers(entry.study)


def _agents() -> tuple[str, ...]:
    """Names of all that can be asked, remote ones too.  Raises CurbsideError."""
    spec = load_fleet_spec(fleet_path(config().fleet.file, where()))
    trained = where() / config().stores.fleet
    return spec.askable([a.name for a in read_fleet_file(trained).agents] if spec.embedded else [])


def _by_competence(agents: Sequence[str], record: CaseRecord) -> list[str]:
    """Who is likeliest to be right on this case first; then those of whom nothing is known."""
    known = {c.agent: c.estimate for c in record.competence}
    return sorted(agents, key=lambda a: -known.get(a, -1.0))


def _ask(case: str) -> None:
    told = st.session_state
    whom = told[f"ask-agent-{case}"]
    options = [o.strip() for o in told[f"ask-options-{case}"].split("|") if o.strip()]
    words = told[f"ask-text-{case}"]
    _hand_in(case, "ask", f"{whom} is asked", agent=whom, text=words, options=options)


def _reroute(case: str, revision: int) -> None:
    """``revision`` is the one that was seen, not the one that stands by now."""
    whom = st.session_state[f"reroute-agent-{case}"]
    _hand_in(case, "reroute", f"{whom} reads it", agent=whom, revision=revision)


def _hand_in(case: str, kind: str, title: str, **payload: Any) -> None:
    job = worker().submit(kind, title, case=case, who=reader(), **payload)
    st.session_state.setdefault(_JOBS, {}).setdefault(case, []).insert(0, job)


def _answers(case: str) -> None:
    mine = [worker().get(j) for j in st.session_state.get(_JOBS, {}).get(case, [])]
    jobs = [j for j in mine if j is not None]
    for job in jobs:
        _job(job)
    if any(not j.ended for j in jobs):
        _poll(case)


@st.fragment(run_every=0.5)
def _poll(case: str) -> None:
    """Nothing is computed here: it looks whether the worker is done, and then draws anew."""
    ids = st.session_state.get(_JOBS, {}).get(case, [])
    waiting = [j for j in (worker().get(i) for i in ids) if j is not None and not j.ended]
    known = st.session_state.setdefault("cb_polled", {})
    if len(waiting) < known.get(case, len(waiting)):
        known[case] = len(waiting)
        st.rerun()
    known[case] = len(waiting)
    if waiting:
        st.caption(f"{waiting[0].title} … the first question after a start loads the models.")


def _job(job: Job) -> None:
    if job.state == "failed":
        st.html(error_state(job.title, job.error, job.hint))
    elif job.state == "done":
        said = job.result["response"]
        if said["type"] == "reading":
            pairs = sorted(
                zip(said["options"], said["probabilities"], strict=False), key=lambda x: -x[1]
            )
            answer = pairs[0][0] if pairs else said["text"]
            st.html(
                f'<p><b style="font-weight:600">{text(job.result["agent"])}</b>'
                f'<span class="cb-quiet"> · {text(job.result.get("asked", "reads it"))}</span><br>'
                f'<span class="cb-answer-small">{text(answer)}</span></p>' + bars(pairs[:6])
            )
        else:
            why = said.get("reason") or said.get("message")
            st.html(
                f'<p><b style="font-weight:600">{text(job.result["agent"])}</b> gave no reading: '
                f"{text(why)}</p>"
            )
