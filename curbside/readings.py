"""What comes back: an agent's response, the outcome of a case, and its whole record.

A reading, an abstention and a failure are three types, so that nothing that is
not an answer can be mistaken for one; ``not_analysed`` can never read as "normal".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Abstention",
    "AgentCompetence",
    "CaseRecord",
    "Counterfactual",
    "Explanation",
    "Failure",
    "Familiarity",
    "Neighbour",
    "Outcome",
    "Reading",
    "Reason",
    "Response",
    "Sentence",
    "Status",
    "Tier",
    "Versions",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Explanation(_Frozen):
    """What in the images an answer rests on, as far as that is known.

    ``class_activation``: ``grid`` holds what each place of the image (rows from the top)
    adds to the chosen option's logit; ``share`` is how much of the decision that branch
    is.  ``cited``: ``citations`` hold what the agent itself points to.  ``none``: there is
    no explanation, and ``note`` says why.
    """

    kind: Literal["class_activation", "cited", "none"]
    option: str = ""
    grid: tuple[tuple[float, ...], ...] = ()
    share: float = Field(default=1.0, ge=0, le=1)
    citations: tuple[str, ...] = ()
    note: str = ""


class Sentence(_Frozen):
    """A sentence of a report draft and the positions in ``parts`` of the readings it cites."""

    section: str
    text: str
    cites: tuple[int, ...] = Field(min_length=1)


class Reading(_Frozen):
    """An agent's answer.

    ``probabilities`` align with ``options`` and sum to 1 (closed questions); ``text``
    holds the answer in words.  ``confidence`` lies in [0, 1]; ``confidence_kind`` says
    what it is (``probability``: the calibrated probability of the chosen option;
    ``logprob``: the model's own probability of what it said; ``agreement``: the share of k
    samples that say the same).  ``fingerprint`` covers base model, adapter, prompt,
    decoding and ``server``, the version of what served it.  A report draft has
    ``sentences``, each citing one of its ``parts``.
    """

    type: Literal["reading"] = "reading"
    agent: str
    fingerprint: str
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    text: str = ""
    confidence: float = Field(ge=0, le=1)
    confidence_kind: Literal["probability", "logprob", "agreement", "person"] = "probability"
    latency_ms: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    server: str = ""
    parts: tuple[Reading, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    explanation: Explanation | None = None

    @property
    def answer(self) -> str:
        """The chosen option, or the text of an open answer."""
        if not self.probabilities:
            return self.text
        return self.options[max(range(len(self.options)), key=self.probabilities.__getitem__)]


class Abstention(_Frozen):
    """An agent declined, and why (its card excludes the case, or it knows no such option)."""

    type: Literal["abstention"] = "abstention"
    agent: str
    fingerprint: str = ""
    reason: str


class Failure(_Frozen):
    """An agent was asked and could not answer.  ``kind`` is stable; ``message`` is for people."""

    type: Literal["failure"] = "failure"
    agent: str
    fingerprint: str = ""
    kind: Literal["image", "timeout", "unavailable", "invalid_answer", "internal"]
    message: str


Response = Annotated[Reading | Abstention | Failure, Field(discriminator="type")]


class Status(StrEnum):
    """How a case ended.  ``NOT_ANALYSED`` and ``QUARANTINED`` never mean "normal"."""

    ANSWERED = "answered"
    NEEDS_REVIEW = "needs_review"
    NOT_ANALYSED = "not_analysed"
    QUARANTINED = "quarantined"


class Tier(StrEnum):
    """Derived from familiarity and support, for people to read."""

    COMMON = "common"
    RARE = "rare"
    NOVEL = "novel"


class Reason(_Frozen):
    """Why a step was taken: a stable ``code`` and a sentence with the numbers in it."""

    code: str
    text: str


class Neighbour(_Frozen):
    """One indexed training case near this one (cosine similarity after the projection)."""

    case: str
    modality: str
    label: str
    similarity: float


class Familiarity(_Frozen):
    """Have we seen the like?

    ``p_value`` is conformal: under exchangeability with the calibration cases of the
    ``stratum``, P(p ≤ α) ≤ α.  It bounds false deferral of cases like those; nothing
    bounds how many novel cases are missed.
    """

    p_value: float
    score: float
    threshold: float
    alpha: float
    stratum: str
    stratum_n: int


class AgentCompetence(_Frozen):
    """Estimated P(correct) of one agent on cases like this, with interval and support."""

    agent: str
    estimate: float
    low: float
    high: float
    support: float


class Counterfactual(_Frozen):
    """The smallest single change that would have sent the case elsewhere."""

    change: str
    then: str


class Outcome(_Frozen):
    """How the case ended.

    ``answer`` is set only when ``status`` is ``answered``; a ``provisional`` answer is
    shown to the person who reviews and is nobody's answer until then.
    """

    status: Status
    route: tuple[str, ...] = ()
    answer: str | None = None
    confidence: float | None = None
    reader: str | None = None
    provisional: str | None = None
    reasons: tuple[Reason, ...]
    dissent: tuple[str, ...] = ()
    counterfactuals: tuple[Counterfactual, ...] = ()


class Versions(_Frozen):
    """Everything a decision depended on, as hashes: the record can be replayed from them."""

    code: str
    encoder: str
    index: str
    calibration: str
    policy: str
    fleet: str


class CaseRecord(_Frozen):
    """The whole story of one case, without a pixel: what the ledger stores and people read.

    ``incomplete`` holds one reason for each object of the study that could not be used.
    """

    case: str
    content: str
    question_kind: str = "diagnosis"
    task: str | None = None
    options: tuple[str, ...] = ()
    tier: Tier | None = None
    modality: str | None = None
    modality_probabilities: dict[str, float] = Field(default_factory=dict)
    familiarity: Familiarity | None = None
    support: int | None = None
    specialist: str | None = None
    tag_disagreement: bool = False
    incomplete: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    competence: tuple[AgentCompetence, ...] = ()
    responses: tuple[Response, ...] = ()
    outcome: Outcome
    versions: Versions
    received_at: str = ""
    decided_at: str = ""
    notice: str = "Research software, not a medical device."

    @property
    def explained(self) -> Reading | None:
        """The reading that counts, where it says what in the image it rests on or why it cannot."""
        readers = (self.outcome.reader or "").split(" + ")
        told = (r for r in self.responses if isinstance(r, Reading) and r.agent in readers)
        return next((r for r in told if r.explanation is not None), None)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return self.model_dump(mode="json")
