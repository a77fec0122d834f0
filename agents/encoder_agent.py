"""An image encoder adapted by ``curbside finetune``: heads on its vectors, closed questions alone.

The base and what was learned over it are verified against the adapter's card when they are
opened, with the first study.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.cost import BuildCost
from curbside.agents.finetuning.card import AdapterCard, read_card
from curbside.agents.fleet_spec import EncoderSpec
from curbside.agents.heads import Heads, match_task
from curbside.errors import AgentUnavailable, CurbsideError, ImageError, UserError
from curbside.readings import Abstention, Failure, Reading
from curbside.storage import tree_digest
from curbside.study import QuestionKind, Study, content_hash

__all__ = ["EncoderAgent", "open_encoder_agent"]

_CLOSED = (QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED)
#: float32 (d,) of one study.  Raises ImageError.
Vector = Callable[[Study], NDArray[np.float32]]


class EncoderAgent:
    """See :class:`curbside.agents.contract.Agent`.

    Args:
        open_vectors: called once, with the first study.  Raises AgentUnavailable, UserError.
        build_cost: what making it took.
    """

    def __init__(
        self,
        card: AgentCard,
        heads: Heads,
        open_vectors: Callable[[], Vector],
        build_cost: BuildCost | None = None,
    ) -> None:
        self.card = card
        self._heads, self._open = heads, open_vectors
        self._labels = heads.labels()
        self.build_cost = build_cost
        self._vector: Vector | None = None
        self._lock = Lock()

    def read(self, study: Study) -> AnyResponse:
        """One response; never raises for a bad study."""
        return self.read_batch([study])[0]

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        """One response a study, in order; images one after the other: a study gets the same alone
        as in a batch."""
        with self._lock:
            if self._vector is None:
                try:
                    self._vector = self._open()
                except CurbsideError as e:
                    return [self._fail("unavailable", e.message) for _ in studies]
            return [self._read(self._vector, s) for s in studies]

    def _read(self, vector: Vector, study: Study) -> AnyResponse:
        started = time.perf_counter()
        question = study.question
        if question.kind not in self.card.question_kinds:
            return self._abstain(
                f"reads {', '.join(self.card.question_kinds)}, not {question.kind}"
            )
        if not question.options:
            return self._abstain("the question has no options to choose from")
        task = match_task(question, self._labels)
        try:
            features = vector(study)
        except ImageError as e:
            return self._fail("image", f"{e.reason}: {e.message}")
        if task is None:
            return self._abstain("knows no task whose labels cover these options")
        p = self._heads[task].probabilities(features[None], question.options)[0].astype(float)
        probabilities = tuple((p / p.sum()).tolist())
        return Reading(
            agent=self.card.name,
            fingerprint=self.card.fingerprint,
            options=question.options,
            probabilities=probabilities,
            confidence=min(max(probabilities), 1.0),
            latency_ms=1000 * (time.perf_counter() - started),
            cost=self.card.cost,
        )

    def _fail(self, kind: Any, message: str) -> Failure:
        name, mark = self.card.name, self.card.fingerprint
        return Failure(agent=name, fingerprint=mark, kind=kind, message=message)

    def _abstain(self, reason: str) -> Abstention:
        return Abstention(agent=self.card.name, fingerprint=self.card.fingerprint, reason=reason)


def open_encoder_agent(name: str, spec: EncoderSpec, folder: Path | None = None) -> EncoderAgent:
    """An agent of kind ``encoder`` of a fleet file; the encoder loads with its first study.

    Raises:
        UserError: the adapter's folder holds no finished adapter of an encoder.
    """
    beside = folder or Path()
    adapter = beside / spec.adapter
    made = read_card(adapter)
    if made.kind != "encoder":
        raise UserError(
            f"agent {name}: {spec.adapter} adapts a vision-language model, not an encoder",
            hint="use kind transformers or openai for it",
        )
    try:
        heads = Heads.from_arrays(load_file(adapter / "heads.safetensors"), made.heads)
    except Exception as e:  # safetensors' own errors are no OSError
        raise UserError(
            f"agent {name}: the heads of {spec.adapter} cannot be read ({type(e).__name__})",
            hint="fine-tune it again",
        ) from e
    mark = content_hash("encoder", made.base_digest, *map(str, tree_digest(adapter).items()))
    card = AgentCard(
        name=name,
        kind="encoder",
        question_kinds=tuple(k for k in spec.card.questions if k in _CLOSED),
        fingerprint=mark,
        base=spec.base,
        adapter=spec.adapter,
        **spec.card.model_dump(exclude={"questions"}),
    )
    return EncoderAgent(card, heads, lambda: _vectors(spec.base, beside, adapter, made), made.cost)


def _vectors(base: str, beside: Path, adapter: Path, made: AdapterCard) -> Vector:
    """The adapted encoder, its base checked against the card."""
    from curbside.agents.finetuning.towers import EMBEDDED, embedded_trunk

    if base == EMBEDDED:
        trunk = embedded_trunk()
        _same_base(trunk.source.fingerprint, made, base)
        return _embedded(trunk, adapter, made)
    return _pretrained(base, beside, adapter, made)


def _embedded(trunk: Any, adapter: Path, made: AdapterCard) -> Vector:
    from curbside.agents.network import UpperNetwork

    learned: dict[str, NDArray[np.float32]] = {}
    if made.method == "lora":
        # peft leaves its adapter's own name out of files
        for key, value in load_file(adapter / "adapter_model.safetensors").items():
            learned[key.replace(".weight", ".default.weight")] = value
    elif made.method == "last-block":
        learned = load_file(adapter / "tuned.safetensors")
    network = UpperNetwork(learned)

    def vector(study: Study) -> NDArray[np.float32]:
        found, failures = trunk.of([study])
        for problem in failures.values():
            raise problem
        features: NDArray[np.float32] = network.features(found.grid)[0]
        return features

    return vector


def _pretrained(base: str, beside: Path, adapter: Path, made: AdapterCard) -> Vector:
    from curbside.agents.finetuning.adaptable import local_folder
    from curbside.agents.finetuning.recipe import Recipe
    from curbside.agents.finetuning.towers import features_of, open_tower

    tower = open_tower(base, local_folder(base, beside))
    _same_base(tower.digest, made, base)
    holder = tower.train_what(Recipe.model_validate(made.recipe))
    if made.method == "lora":
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file as load_tensors

        state = load_tensors(adapter / "adapter_model.safetensors")
        wrong = set_peft_model_state_dict(holder, state).unexpected_keys
        if wrong:
            raise AgentUnavailable(f"the adapter has layers that {base} lacks ({len(wrong)})")
    elif made.method == "last-block":
        from safetensors.torch import load_file as load_tensors

        holder.load_state_dict(load_tensors(adapter / "tuned.safetensors"), strict=False)

    def vector(study: Study) -> NDArray[np.float32]:
        found: NDArray[np.float32] = features_of(tower, [study], lambda _: None)[0]
        return found

    return vector


def _same_base(digest: str, made: AdapterCard, base: str) -> None:
    if digest != made.base_digest:
        raise AgentUnavailable(
            f"the adapter was made on another {made.base} ({made.base_digest[:12]}) than the "
            f"{base} that is here ({digest[:12]})",
            hint="fine-tune it again on this base",
        )
