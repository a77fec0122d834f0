"""The right side of a case: how it ended, and the actions of the person who reads.

Every action names its case by id and revision, given when the button was drawn: if another
study has come in above, or somebody else was quicker, it is this case or none that changes.
What was typed is read when the action runs: the button may have been drawn before it.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from curbside.errors import CurbsideError
from curbside.readings import CaseRecord
from curbside.router.entries import Entry
from curbside.router.review import OVERRIDE_CODES, Kind
from curbside.ui.blind import hidden, switch
from curbside.ui.case_story import headline, readings, shortcuts
from curbside.ui.components import css_class, error_state, mark, row, text
from curbside.ui.serving import ledger
from curbside.ui.session import reader

__all__ = ["panel"]

_PENDING = "cb_override"
_NOTICE = "cb_notice"
CODE_WORDS = {
    "wrong_finding": "Wrong finding",
    "wrong_modality": "Wrong modality",
    "wrong_question": "Wrong question",
    "image_quality": "Image quality",
    "more_information": "Other information",
    "other": "Other",
}


def panel(entry: Entry, record: CaseRecord, ahead: str | None) -> None:
    """Outcome and actions.  ``ahead`` is the case that comes next, or None."""
    _notices()
    blind = hidden(entry)
    st.html(_blinded() if blind else _outcome(entry, record))
    if not reader():
        st.caption("Say who is reading (top right) to act; every action is recorded with it.")
    if st.session_state.get(_PENDING, {}).get("case") == entry.study and not blind:
        _why(entry, ahead)
    else:
        _answers(entry, record, ahead, blind)
    if record.responses and not blind:
        st.html(_compact(record))
    switch()


def _outcome(entry: Entry, record: CaseRecord) -> str:
    h = headline(record)
    kind = {"answer": "", "provisional": " is-provisional", "none": " cb-quiet"}[h.kind]
    who = " · by a person" if entry.truth is not None else ""
    dissent = "".join(f'<p class="cb-review"><b>Disagrees</b> {text(d)}</p>' for d in h.dissent)
    return (
        f'<div class="cb-outcome is-{css_class(h.status)}">{mark(h.status, who)}'
        f'<div class="cb-answer{kind}">{text(h.answer)}</div>'
        f'<span class="cb-quiet cb-small">{text(h.by)}</span>'
        + "".join(f"<p>{text(r)}</p>" for r in h.reasons)
        + dissent
        + "</div>"
    )


def _compact(record: CaseRecord) -> str:
    """Who said what, in one line each; disagreement by sign, word and colour."""
    lines = []
    for one in readings(record):
        sure = "" if one.confidence is None else f"{100 * one.confidence:.0f} %"
        width = 0.0 if one.confidence is None else 100 * one.confidence
        differs = '<span class="cb-mark cb-review cb-small">≠ differs</span>' if one.differs else ""
        bar = f'<span class="cb-bar"><i style="width:{width:.0f}%"></i></span>'
        cells = [text(one.agent), text(one.answer), bar if sure else "", sure, differs]
        lines.append(row(cells, "minmax(8rem,1.1fr) minmax(5rem,1fr) 4rem 2.6rem 4.6rem"))
    return "".join(lines)


def _blinded() -> str:
    return (
        '<div class="cb-outcome"><span class="cb-mark">Blind first</span>'
        '<div class="cb-answer cb-quiet">What do you see?</div>'
        "<p>The agents' answers are shown once you have given yours.</p></div>"
    )


def _answers(entry: Entry, record: CaseRecord, ahead: str | None, blind: bool) -> None:
    told = record.outcome.answer or record.outcome.provisional
    act = {"disabled": not reader(), "on_click": _answer}
    with st.container(horizontal=True, gap="small", key="cb-answers"):
        if told is not None and not blind:
            st.button(
                f"Agree: {told}",
                type="primary",
                shortcut="A",
                key=f"agree-{entry.study}",
                args=(entry.study, entry.revision, told, told, ahead, False),
                **act,
            )
        keys = shortcuts(record.options)
        for option, digit in keys.items():
            if option != told or blind:
                st.button(
                    option,
                    shortcut=digit,
                    key=f"answer-{entry.study}-{digit}",
                    args=(entry.study, entry.revision, option, told, ahead, blind),
                    **act,
                )
    if not keys:
        _free(entry, record, told, ahead, blind)


def _free(
    entry: Entry, record: CaseRecord, told: str | None, ahead: str | None, blind: bool
) -> None:
    """An answer chosen from a long list, or written where the question has no options."""
    with st.form(f"free-{entry.study}", border=False):
        key = _free_key(entry.study)
        if record.options:
            st.selectbox("Your answer", record.options, index=None, key=key)
        else:
            st.text_input("Your answer", placeholder="What the images show", key=key)
        st.form_submit_button(
            "Answer",
            disabled=not reader(),
            on_click=_free_given,
            args=(entry.study, entry.revision, told, ahead, blind),
        )


def _free_key(case: str) -> str:
    return f"free-answer-{case}"


def _note_key(case: str) -> str:
    return f"note-{case}"


def _why(entry: Entry, ahead: str | None) -> None:
    """The second step of an override: its coded reason."""
    wanted = st.session_state[_PENDING]
    st.markdown(f"**Override with “{wanted['answer']}”: why?**")
    st.text_input("Note", key=_note_key(entry.study), placeholder="optional, no names")
    with st.container(horizontal=True, gap="small", key="cb-why"):
        for i, code in enumerate(OVERRIDE_CODES, 1):
            st.button(
                CODE_WORDS.get(code, code),
                shortcut=str(i),
                key=f"why-{entry.study}-{code}",
                on_click=_override,
                args=(entry.study, wanted["revision"], wanted["answer"], code, ahead),
                disabled=not reader(),
            )
        st.button(
            "Cancel",
            shortcut="Esc",
            type="tertiary",
            key="why-cancel",
            on_click=lambda: st.session_state.pop(_PENDING, None),
        )


# -- acting ----------------------------------------------------------------------------------


def _answer(
    case: str, revision: int, answer: str, told: str | None, ahead: str | None, blind: bool
) -> None:
    if blind:
        _do(case, lambda who: ledger().add(case, Kind.BLIND, who, answer=answer, revision=revision))
        st.session_state[_NOTICE] = f"Your blind reading of {case}: {answer}"
        return
    if told is not None and answer != told:
        st.session_state[_PENDING] = {"case": case, "revision": revision, "answer": answer}
        _stay(case)
        return
    kind = Kind.AGREE if told is not None else Kind.ANSWER
    done = _do(
        case, lambda who: ledger().review(case, who, kind=kind, answer=answer, revision=revision)
    )
    if done:
        _go_on(case, f"{'Agreed' if kind is Kind.AGREE else 'Answered'}: {answer}", ahead)


def _free_given(case: str, revision: int, told: str | None, ahead: str | None, blind: bool) -> None:
    said = st.session_state.get(_free_key(case))
    if said:
        _answer(case, revision, said, told, ahead, blind)


def _override(case: str, revision: int, answer: str, code: str, ahead: str | None) -> None:
    note = st.session_state.get(_note_key(case), "")
    done = _do(
        case,
        lambda who: ledger().review(
            case, who, kind=Kind.OVERRIDE, answer=answer, code=code, text=note, revision=revision
        ),
    )
    st.session_state.pop(_PENDING, None)
    if done:
        _go_on(case, f"Overridden: {answer} ({CODE_WORDS.get(code, code).lower()})", ahead)


def _do(case: str, action: Callable[[str], object]) -> bool:
    """Run an action of the reader; what went wrong is said on the page of the case."""
    try:
        action(reader())
    except CurbsideError as e:
        st.session_state[_NOTICE] = e
        _stay(case)
        return False
    return True


def _stay(case: str) -> None:
    """The browser is told which case is shown.

    A key that is pressed twice is of the page that was drawn then, and the address may meanwhile
    have gone on to the next case.
    """
    st.query_params["case"] = case


def _go_on(case: str, said: str, ahead: str | None) -> None:
    st.session_state[_NOTICE] = f"{case}. {said}"
    if ahead is not None:
        st.query_params["case"] = ahead


def _notices() -> None:
    notice = st.session_state.pop(_NOTICE, None)
    if isinstance(notice, CurbsideError):
        st.html(error_state("Nothing was recorded", notice.message, notice.hint))
    elif notice:
        st.html(f'<div class="cb-done" role="status">✓ {text(notice)}</div>')
