"""What is learned from: questions about the corpus's ``train`` cases, and visual questions.

A lesson is an image and the questions asked of it in one go.  Which images, which wording and
which order of the options is drawn from a seed, once and for the whole course, so that a course
that is gone on with is the same course.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from curbside.agents.small_vlm.packing import Asked, Group
from curbside.agents.small_vlm.wording import MODALITY, Wording, plain, which_of
from curbside.cases import Case
from curbside.study import Question

__all__ = ["ORDERS", "corpus_lessons", "drawn", "visual_lessons"]

#: Orders of a task's options that are learned; each is a text whose lower states are kept.
ORDERS = 4
#: Questions of one image in one lesson.
_MOST = 6


def drawn(cases: Sequence[Case], count: int, seed: int) -> list[int]:
    """``count`` of the cases: each modality as often as the root of its number of cases.

    Every case of a modality comes once before any comes twice.
    """
    rng = random.Random(seed)
    by: dict[str, list[int]] = {}
    for i, c in enumerate(cases):
        by.setdefault(c.modality or "", []).append(i)
    weights = [len(rows) ** 0.5 for rows in by.values()]
    wanted = Counter(rng.choices(list(by), weights, k=count))
    out: list[int] = []
    for modality, rows in by.items():
        todo = wanted[modality]
        while todo > 0:
            round_ = rng.sample(rows, min(todo, len(rows)))
            out += round_
            todo -= len(round_)
    rng.shuffle(out)
    return out


def corpus_lessons(
    cases: Sequence[Case],
    course: Sequence[int],
    wording: Wording,
    seed: int,
    *,
    modality_too: float = 0.5,
) -> list[Group]:
    """Label and modality questions; row i of the visual features is case i's.

    Args:
        modality_too: chance that an image with a label question is asked for its modality too.
    """
    rng = random.Random(seed)
    orders = _orders(cases, rng)
    lessons = []
    for i in course:
        case, asked = cases[i], list[Asked]()
        if case.label in case.options:
            text = which_of(rng.choice(orders[case.options]))
            asked.append(wording.asked(text, plain(case.label or "")))
        if not asked or rng.random() < modality_too:
            text = MODALITY[0] if rng.random() < 0.5 else rng.choice(MODALITY[1:])
            asked.append(wording.asked(text, plain(case.modality or "")))
        lessons.append(Group(i, tuple(asked)))
    return lessons


def visual_lessons(
    cases: Sequence[Case],
    row: Callable[[Case], int],
    wording: Wording,
    seed: int,
    *,
    passes: int,
) -> list[Group]:
    """Questions in words with their answers (attribute ``answer``), several of an image at once.

    Args:
        row: of a case's image in the visual features.
    """
    rng = random.Random(seed)
    lessons = []
    by: dict[int, list[Case]] = {}
    for c in cases:
        by.setdefault(row(c), []).append(c)
    for _ in range(passes):
        course = []
        for image, some in by.items():
            mixed = rng.sample(some, len(some))
            for at in range(0, len(mixed), _MOST):
                asked = (_visual(c, wording) for c in mixed[at : at + _MOST])
                course.append(Group(image, tuple(asked)))
        rng.shuffle(course)
        lessons += course
    return lessons


def _visual(case: Case, wording: Wording) -> Asked:
    answer = (wording.answer(case.attributes["answer"].lower()),)
    if not case.options:
        return Asked(wording.prompt(case.question), answer)
    return Asked(wording.closed(Question(case.options, case.question)), answer)


def _orders(
    cases: Sequence[Case], rng: random.Random
) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Options → orders to ask them in; the first is the order of names, as at inference."""
    out: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for options in dict.fromkeys(c.options for c in cases if c.options):
        shuffled = [tuple(rng.sample(options, len(options))) for _ in range(ORDERS - 1)]
        out[options] = [tuple(sorted(options)), *shuffled]
    return out
