"""Controls in every run: what should not work must not, and what should not matter must not.

Blank, noise and shuffled images, of each agent (one that is still right reads the question,
not the picture); a baseline that sees the question alone; the order of the options; near-duplicates
across roles; explanations; the route under harmless changes of the image.  Each is a
number with its interval, the level it is held against, and a finding.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.agents.vision import VisionAgent
from curbside.evals.schema import Control
from curbside.indexes.leaks import closest
from curbside.readings import Reading
from curbside.study import Study

if TYPE_CHECKING:
    from curbside.agents.contract import Agent
    from curbside.cases import Cases
    from curbside.indexes.features import Features

__all__ = [
    "SAMPLE",
    "copies_of_known",
    "option_order",
    "order_effect",
    "png",
    "question_only",
    "rate",
    "sample_rows",
    "without_image",
]

#: Cases that agents read again for a control.
SAMPLE = 120
#: Of these, cases whose options are shown to an agent in every order.
ORDER_SAMPLE = 24
#: Readings below which a control says nothing of an agent alone: its interval is up to
#: ± 20 points wide even there.
LEAST = 20
#: Cosine about the mean from which two images are compared pixel by pixel.
CLOSE = 0.95
#: Correlation of 32 x 32 grey pictures from which two images count as nearly equal.
EQUAL = 0.99
_NOISE_IMAGES = 8
_SIZE = 224


def rate(
    name: str,
    about: str,
    hits: int,
    n: int,
    *,
    held_against: float | None = None,
    bad_above: bool = True,
    agent: str = "",
    tests: int = 1,
    sampled: bool = True,
) -> Control:
    """A share with its Wilson interval; ``finding`` by the bound that would be bad.

    Args:
        sampled: the n stand for more; where they are all there is, the share itself is judged
            and has no interval.
        held_against: level that must not be exceeded (``bad_above``) or must be reached.
        agent: whom it is about.
        tests: how many such findings stand side by side; the bound is Bonferroni's for them,
            the interval that is shown is not.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not n:
        return Control(
            name=name, about=about, n=0, value=None, ci_low=None, ci_high=None,
            held_against=held_against, finding="not assessable", agent=agent,
        )  # fmt: skip
    low, high = proportion_confint(hits, n, method="wilson") if sampled else (None, None)
    finding = "reported"
    if held_against is not None:
        bound = hits / n
        if sampled:
            bound, _ = proportion_confint(hits, n, alpha=0.05 / tests, method="wilson")
        bad = bound > held_against if bad_above else hits / n < held_against
        finding = "found" if bad else "not found"
    return Control(
        name=name, about=about, n=n, value=hits / n,
        ci_low=None if low is None else float(low), ci_high=None if high is None else float(high),
        held_against=held_against, finding=finding, agent=agent,
    )  # fmt: skip


def _of_agent(
    name: str, about: str, hits: int, n: int, agent: str, tests: int, held_against: float | None
) -> Control:
    """:func:`rate` for one agent; of fewer than :data:`LEAST` readings only how many they are."""
    if n < LEAST:
        few = f"{about}; too few to assess, fewer than {LEAST}"
        return rate(name, few, 0, 0, agent=agent).model_copy(update={"n": n})
    return rate(name, about, hits, n, held_against=held_against, agent=agent, tests=tests)


def sample_rows(rows: NDArray[np.intp], n: int = SAMPLE, seed: int = 0) -> NDArray[np.intp]:
    """At most n of the rows, drawn once and for all by the seed, ascending."""
    if len(rows) <= n:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))


def without_image(
    studies: Sequence[Study],
    labels: Sequence[str],
    readers: Sequence[Sequence[Agent]],
    blind: float | NDArray[np.float64],
    *,
    together: Collection[str] | None = None,
) -> list[Control]:
    """How often agents are right on blank, noise and other cases' images: together, then each.

    Args:
        studies: with a question each; ``labels`` are the truths.
        readers: of each study, the agents that read it.
        blind: share right of "always the task's commonest label", the most that a reader can
            expect who sees no image; one for all studies, or one each.
        together: names of the agents that are pooled; None: all.
    """
    out: list[Control] = []
    each: list[Control] = []
    level = np.broadcast_to(np.asarray(blind, np.float64), (len(studies),))
    rng = np.random.default_rng(0)
    blank = png(np.full((_SIZE, _SIZE, 3), 128, np.uint8))
    noise = [png(rng.integers(0, 256, (_SIZE, _SIZE, 3), np.uint8)) for _ in range(_NOISE_IMAGES)]
    other = _other_labels(studies, labels)
    kinds: dict[str, list[Study | None]] = {
        "blank": [_with_image(s, blank) for s in studies],
        "noise": [_with_image(s, noise[i % _NOISE_IMAGES]) for i, s in enumerate(studies)],
        "shuffled": [
            None if j is None else replace(s, series=studies[j].series)
            for s, j in zip(studies, other, strict=True)
        ],
    }
    about = {
        "blank": "right on a grey image instead of the study's",
        "noise": "right on noise instead of the study's image",
        "shuffled": "right on another case's image, of the same task and another label",
    }
    for kind, changed in kinds.items():
        by = _right(changed, labels, readers)
        pooled = [b for name, b in by.items() if together is None or name in together]
        out.append(
            rate(
                f"{kind}_image",
                about[kind],
                sum(int(right.sum()) for _, right in pooled),
                sum(len(right) for _, right in pooled),
                held_against=float(level.mean()) if len(level) else None,
            )
        )
        tests = sum(len(right) >= LEAST for _, right in by.values())
        each += [
            _of_agent(
                f"{kind}_image",
                about[kind],
                int(right.sum()),
                len(right),
                name,
                tests,
                float(level[rows].mean()) if len(rows) else None,
            )
            for name, (rows, right) in by.items()
        ]
    return out + each


def question_only(
    train: Cases, cases: Cases, scored: NDArray[np.bool_], best: float
) -> list[Control]:
    """A baseline that sees question, options and task, and never the image.

    It answers with the commonest training label of the same question, else of the same
    options, else the first option.

    Args:
        best: accuracy of the best arm alone on the same cases (micro), to hold it against.
    """
    by: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for c in train:
        if c.role == "train" and c.label and c.options:
            by["q", c.task or "", c.question.lower(), *c.options][c.label] += 1
            by["o", *sorted(c.options)][c.label] += 1
    hits = named = n = 0
    for i in np.flatnonzero(scored):
        c = cases[int(i)]
        n += 1
        known = by.get(("q", c.task or "", c.question.lower(), *c.options))
        known = known or by.get(("o", *sorted(c.options)))
        guess = known.most_common(1)[0][0] if known else c.options[0]
        hits += guess == c.label
        text = f" {c.question.lower()} "
        inside = [o for o in c.options if o.replace("_", " ").lower() in text]
        named += inside == [c.label]
    return [
        rate(
            "question_only",
            "right by question, options and task alone; held against the best arm alone",
            hits,
            n,
            held_against=best,
        ),
        rate(
            "label_in_question",
            "the question's text names the true label and no other option",
            named,
            n,
            held_against=0.05,
        ),
    ]


def option_order(
    studies: Sequence[Study],
    readers: Sequence[Sequence[Agent]],
    limit: float = 0.02,
    *,
    together: Collection[str] | None = None,
) -> list[Control]:
    """Share of readings whose answer changes when the options come in reverse order.

    Together, then each agent; see :func:`without_image`.
    """
    reverse = [
        replace(s, question=replace(s.question, options=s.question.options[::-1])) for s in studies
    ]
    about = "the answer changes when the options are reversed"
    by: dict[str, tuple[int, int]] = {}
    for agent, rows in _by_agent(readers).items():
        first = agent.read_batch([studies[i] for i in rows])
        second = agent.read_batch([reverse[i] for i in rows])
        pairs = [
            (a, b)
            for a, b in zip(first, second, strict=True)
            if isinstance(a, Reading) and isinstance(b, Reading)
        ]
        by[agent.card.name] = (sum(a.answer != b.answer for a, b in pairs), len(pairs))
    pooled = [b for name, b in by.items() if together is None or name in together]
    whole = rate(
        "option_order", about, sum(m for m, _ in pooled), sum(n for _, n in pooled),
        held_against=limit,
    )  # fmt: skip
    tests = sum(n >= LEAST for _, n in by.values())
    return [whole] + [
        _of_agent("option_order", about, moved, n, name, tests, limit)
        for name, (moved, n) in by.items()
    ]


def order_effect(
    studies: Sequence[Study], readers: Sequence[Sequence[Agent]], limit: float = 0.02
) -> list[Control]:
    """Of each agent that is shown options in an order: answers that move with it.

    Before averaging, over all turns of the options shown alone; and after, over all orders
    that the average could have begun with.  Agents that are shown no order have none.
    """
    out = []
    for agent, rows in _by_agent(readers).items():
        if not isinstance(agent, VisionAgent):
            continue
        found = [e for i in rows[:ORDER_SAMPLE] if (e := agent.order_effect(studies[i]))]
        for name, about, moved, held in (
            ("option_order_alone", "the answer moves with the order, one order shown",
             sum(e.alone for e in found), None),
            ("option_order_averaged", "it moves with the order that the average begins with",
             sum(e.averaged for e in found), limit),
        ):  # fmt: skip
            out.append(
                rate(name, about, moved, len(found), held_against=held, agent=agent.card.name)
            )
    return out


def copies_of_known(
    known: Cases, known_features: Features, cases: Cases, features: Features
) -> tuple[Control, NDArray[np.bool_]]:
    """Evaluated images that nearly equal one that the system was built from.

    Candidates by cosine of raw features, confirmed by the correlation of small grey pictures.

    Returns:
        The control, and bool (n,), which evaluated cases are such.
    """
    same = np.isin(features.digests, sorted(set(known_features.digests) - {""}))
    nearest, cosine = closest(known_features.pooled, features.pooled)
    found = same.copy()
    for row in np.flatnonzero(~same & (cosine >= CLOSE)).tolist():
        one, two = _picture(cases, row), _picture(known, int(nearest[row]))
        found[row] = one is not None and two is not None and one @ two >= EQUAL
    control = rate(
        "near_duplicates",
        "evaluated images that nearly equal one of role train, tune or calibration",
        int(found.sum()),
        int(features.usable.sum()),
        held_against=0.01,
        sampled=False,
    )
    return control, found


def _picture(cases: Cases, row: int) -> NDArray[np.float64] | None:
    """32 x 32 grey values, centred and of length 1: whatever brightness and contrast."""
    from PIL import Image

    from curbside.errors import ImageError
    from curbside.indexes.features import central_instance

    try:
        pixels = central_instance(cases[row].study()).pixels()
    except ImageError:
        return None
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32)), np.float64)
    grey = grey.ravel() - grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 1e-9))


def _other_labels(studies: Sequence[Study], labels: Sequence[str]) -> list[int | None]:
    """For each study another of the same options with another label; None: there is none."""
    out: list[int | None] = []
    for i, s in enumerate(studies):
        fits = [
            j
            for j, t in enumerate(studies)
            if t.question.options == s.question.options and labels[j] != labels[i]
        ]
        out.append(fits[i % len(fits)] if fits else None)
    return out


def _right(
    studies: Sequence[Study | None], labels: Sequence[str], readers: Sequence[Sequence[Agent]]
) -> dict[str, tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Agent → the rows that it gave a reading of, and whether that was right."""
    by = {}
    for agent, rows in _by_agent(readers).items():
        asked = [(i, s) for i in rows if (s := studies[i]) is not None]
        said = agent.read_batch([s for _, s in asked])
        read = [(i, r) for (i, _), r in zip(asked, said, strict=True) if isinstance(r, Reading)]
        by[agent.card.name] = (
            np.array([i for i, _ in read], np.intp),
            np.array([r.answer == labels[i] for i, r in read], bool),
        )
    return by


def _by_agent(readers: Sequence[Sequence[Agent]]) -> Mapping[Agent, list[int]]:
    by: dict[Agent, list[int]] = defaultdict(list)
    for i, agents in enumerate(readers):
        for agent in agents:
            by[agent].append(i)
    return by


def _with_image(study: Study, image: bytes) -> Study:
    changed = Study.from_image(image, id=study.id, question=study.question, group=study.group)
    return replace(changed, tags=study.tags)


def png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
