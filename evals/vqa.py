"""Scores of answers in words: exact match, token F1, BLEU-1 and ROUGE-L.

As in the study behind this project.  Both texts are lower-cased, without punctuation and
articles (Rajpurkar et al. 2016).  BLEU-1 is sacrebleu's, a sentence at a time; ROUGE-L is the F1
of the longest common subsequence (Lin 2004).  An abstention has no text and no score here:
who answers what share is reported beside every number, never folded into it by silence.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCORES", "bleu_1", "exact_match", "normalised", "rouge_l", "scores", "token_f1"]

SCORES = ("exact_match", "token_f1", "bleu_1", "rouge_l")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(said: str, truth: str) -> float:
    """1 where both are the same after normalisation, else 0."""
    return float(normalised(said) == normalised(truth))


def token_f1(said: str, truth: str) -> float:
    """F1 of the tokens that both share, counted with their numbers, in [0, 1]."""
    a, b = normalised(said).split(), normalised(truth).split()
    return _f1(sum((Counter(a) & Counter(b)).values()), len(a), len(b))


def bleu_1(said: str, truth: str) -> float:
    """Unigram precision times the brevity penalty, in [0, 1] (Papineni et al. 2002)."""
    from sacrebleu.metrics.bleu import BLEU

    a, b = normalised(said), normalised(truth)
    if not a or not b:
        return float(a == b)
    metric = BLEU(max_ngram_order=1, effective_order=True, tokenize="none", smooth_method="none")
    return float(metric.sentence_score(a, [b]).score) / 100


def rouge_l(said: str, truth: str) -> float:
    """F1 of the longest common subsequence of tokens, in [0, 1]."""
    a, b = normalised(said).split(), normalised(truth).split()
    longest = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            above = longest[j]
            longest[j] = before + 1 if x == y else max(longest[j], longest[j - 1])
            before = above
    return _f1(longest[-1], len(a), len(b))


def scores(said: Sequence[str], truth: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Every score of n pairs, float32 (n,) each."""
    by = {"exact_match": exact_match, "token_f1": token_f1, "bleu_1": bleu_1, "rouge_l": rouge_l}
    pairs = list(zip(said, truth, strict=True))
    return {k: np.array([f(a, b) for a, b in pairs], np.float32) for k, f in by.items()}


def _f1(shared: int, a: int, b: int) -> float:
    if not a or not b:
        return float(a == b)
    return 2 * shared / (a + b)
