"""Upload: files, a folder or an archive → studies or reasons → routed."""

from __future__ import annotations

import streamlit as st

from curbside.agents.fleet import read_fleet_file
from curbside.errors import CurbsideError
from curbside.readings import Status
from curbside.ui.blind import switched_on
from curbside.ui.components import error_state, mark, state, table, tag, text
from curbside.ui.links import link_to
from curbside.ui.serving import config, worker
from curbside.ui.session import frame, where
from curbside.ui.uploads import keep
from curbside.ui.workers import Job

__all__ = ["page"]

_ROUND = "cb_upload_round"


def page() -> None:
    """See the module."""
    frame("Upload")
    try:
        tasks = read_fleet_file(where() / config().stores.fleet).tasks
    except CurbsideError as e:
        st.html(error_state("Nothing is built yet, so nothing can be routed", e.message, e.hint))
        return
    left, right = st.columns([1.35, 1], gap="large")
    with left:
        _take(tasks)
    with right:
        st.html(
            '<div class="cb-outcome"><b style="font-weight:600">What happens to the files</b>'
            "<p>DICOM objects are grouped into studies by their own identifiers; each other image "
            "is a study. Identifiers become keyed hashes, and only allowed tags go further.</p>"
            "<p>Sizes are checked before anything is decoded, and decoding happens in a process "
            "with limits. What cannot be used is refused with a reason; it never reads as "
            "“normal”.</p><p>The images stay on this machine, under names of our own.</p></div>"
        )
    _jobs()


def _take(tasks: dict[str, tuple[str, ...]]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kind = st.segmented_control(
            "What",
            ["Files or archive", "Folder"],
            default="Files or archive",
            key="upload_kind",
            required=True,
        )
        task = st.selectbox(
            "Question",
            ["", *sorted(tasks)],
            key="upload_task",
            format_func=lambda t: t or "the nearest cases' task",
            width=280,
        )
    turn = st.session_state.setdefault(_ROUND, 0)
    files = st.file_uploader(
        "Images, DICOM objects or a zip archive",
        accept_multiple_files="directory" if kind == "Folder" else True,
        key=f"upload-{kind}-{turn}",
        label_visibility="collapsed",
    )
    if (
        st.button(
            f"Route {len(files)} file{'s' if len(files) != 1 else ''}" if files else "Route",
            type="primary",
            icon=":material/route:",
            disabled=not files,
        )
        and files
    ):
        folder, n = keep(files, where())
        worker().submit(
            "route",
            f"{n} file{'s' if n != 1 else ''}",
            folder=folder,
            task=task,
            options=list(tasks.get(task, ())),
        )
        # a new uploader: what was handed in cannot be handed in twice
        st.session_state[_ROUND] = turn + 1
        st.rerun()


def _jobs() -> None:
    jobs = worker().jobs("route")
    if not jobs:
        return
    st.markdown("##### Uploads")
    if any(not j.ended for j in jobs):
        _polled()
    for job in jobs:
        if job.ended:
            _ended(job)


@st.fragment(run_every=0.6)
def _polled() -> None:
    """Looks at the worker; computes nothing."""
    running = [j for j in worker().jobs("route") if not j.ended]
    seen = st.session_state.setdefault("cb_upload_seen", len(running))
    st.session_state["cb_upload_seen"] = len(running)
    if len(running) < seen or not running:
        st.session_state.pop("cb_upload_seen", None)
        st.rerun()
    for job in running:
        if job.state == "waiting":
            st.caption(f"{job.title}: waiting for the worker")
        elif job.done or not job.total:
            words = f"{job.done} of {job.total} studies read" if job.total else "looking at headers"
            st.progress(job.done / job.total if job.total else 0.0, text=f"{job.title}: {words}")
        else:
            st.progress(0.0, text=f"{job.title}: {job.total} studies found; opening the models")


def _ended(job: Job) -> None:
    if job.state == "failed":
        st.html(error_state(f"{job.title}: not routed", job.error, job.hint))
        return
    studies, refused = job.result["studies"], job.result["refused"]
    with st.container(border=True):
        st.html(
            f'<b style="font-weight:600">{_counted(len(studies), "study", "studies")} routed</b> '
            f'<span class="cb-quiet">from {text(job.title)}'
            + (f"; {_counted(len(refused), 'object', 'objects')} refused" if refused else "")
            + "</span>"
        )
        if not studies:
            st.html(state("No study in it", "Nothing of this upload can be used; see below why."))
        for one in studies:
            with st.container(
                horizontal=True,
                vertical_alignment="center",
                gap="small",
                key=f"cb-line-{job.id}-{one['study']}",
            ):
                with st.container(width=235):
                    link_to(
                        "case",
                        f"`{one['study']}`",
                        {"case": [one["study"]]},
                        icon=":material/open_in_new:",
                    )
                blind = switched_on()
                said = "shown once you have answered" if blind else one["said"] or "no answer"
                provisional = one["status"] != Status.ANSWERED and one["said"] and not blind
                more = tag("provisional", provisional=True) if provisional else ""
                more += " " + tag("incomplete: " + one["incomplete"]) if one["incomplete"] else ""
                st.html(
                    f"{mark(Status(one['status']))} &nbsp; {more} {text(said)} "
                    f'<span class="cb-quiet cb-small"> · {text(one["modality"] or "unknown")} · '
                    f"{_counted(int(one['images']), 'image', 'images')}"
                    # the reason says how sure the reader was
                    + ("" if blind else f"<br>{text(one['why'])}")
                    + "</span>"
                )
        if refused:
            with st.expander(f"{_counted(len(refused), 'object', 'objects')} refused"):
                st.html(
                    table(
                        ("object", "kind", "reason", ""),
                        [
                            [
                                f'<span class="cb-id">{text(r["id"])}</span>',
                                text(r["kind"] or "–"),
                                text(r["reason"].replace("_", " ")),
                                text(r["message"]),
                            ]
                            for r in refused
                        ],
                    )
                )


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
