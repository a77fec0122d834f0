"""A case record as text for a person: the outcome first, then why, then what it rests on."""

from __future__ import annotations

from curbside.readings import CaseRecord, Explanation, Reading, Status

__all__ = ["render", "rests_on"]


def render(record: CaseRecord) -> str:
    """The record as text for a person: the outcome first, then why, then what it rests on."""
    o = record.outcome
    head = {
        Status.ANSWERED: f"ANSWERED: {o.answer}",
        Status.NEEDS_REVIEW: "NEEDS REVIEW: a person must read this",
        Status.NOT_ANALYSED: "NOT ANALYSED: this says nothing about the patient",
        Status.QUARANTINED: "QUARANTINED: the file is unsafe to open; nothing was analysed",
    }[o.status]
    lines = [head]
    if o.status is Status.ANSWERED:
        sure = "" if o.confidence is None else f"confidence {o.confidence:.2f}, "
        lines[0] += f"  ({sure}by {o.reader})"
        if o.provisional is not None:
            lines.append(f"  the provisional reading was: {o.provisional}")
    elif o.provisional is not None:
        sure = "" if o.confidence is None else f"{o.confidence:.2f}, "
        lines.append(f"  provisional: {o.provisional} ({sure}by {o.reader}) — not an answer")
    if o.status is Status.NEEDS_REVIEW and not record.responses and o.route:
        lines.append(f"  would ask: {', '.join(o.route)}")
    lines.append("")
    lines += [f"  why       {r.text}" for r in o.reasons]
    if record.modality is not None:
        shown = list(record.modality_probabilities.items())[:3]
        lines.append("  modality  " + ", ".join(f"{m} {p:.2f}" for m, p in shown))
    if record.tier is not None:
        lines.append(f"  tier      {record.tier} ({record.support} labelled training cases)")
    if record.familiarity is not None:
        f = record.familiarity
        lines.append(
            f"  seen?     p = {f.p_value:.3f}, novel at {f.alpha:g} or below "
            f"(calibrated on {f.stratum_n} cases of stratum '{f.stratum}')"
        )
    if record.options:
        lines.append(f"  asked     {' | '.join(record.options)}" + _task(record))
    lines += [
        f"  nearest   {n.modality}{': ' + n.label if n.label else ''} (cosine {n.similarity:.2f})"
        for n in record.neighbours[:3]
    ]
    for r in record.responses:
        if isinstance(r, Reading):
            said = ", ".join(
                f"{name} {p:.2f}"
                for name, p in sorted(
                    zip(r.options, r.probabilities, strict=True), key=lambda x: -x[1]
                )[:3]
            )
            lines.append(f"  reading   {r.agent}: {said}")
    if record.explained is not None and record.explained.explanation is not None:
        lines.append(f"  rests on  {rests_on(record.explained.explanation)}")
    lines += [f"  dissent   {d}" for d in o.dissent]
    lines += [f"  what if   {c.change}: {c.then}" for c in o.counterfactuals]
    lines.append(f"\n  case {record.case}.  {record.notice}")
    return "\n".join(lines)


def rests_on(explanation: Explanation) -> str:
    """What an answer rests on, in words; where in the image, or what was cited, or that nothing
    is known."""
    if explanation.kind == "cited":
        return "what it cites: " + "; ".join(explanation.citations)
    if not explanation.grid:
        return explanation.note or "no explanation available"
    rows = explanation.grid
    _, y, x = max((v, y, x) for y, row in enumerate(rows) for x, v in enumerate(row))
    place = f"{_THIRDS[0][3 * y // len(rows)]} {_THIRDS[1][3 * x // len(rows[0])]}"
    return (
        f"the image's {place.replace('middle middle', 'middle')} above all (class activation for "
        f"{explanation.option!r}; {100 * explanation.share:.0f} % of the decision has a place)"
    )


_THIRDS = (("upper", "middle", "lower"), ("left", "middle", "right"))


def _task(record: CaseRecord) -> str:
    return f"  (task {record.task})" if record.task else ""
