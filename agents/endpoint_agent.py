"""Models behind an OpenAI-compatible server: prompts become chat completions, held to a form."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curbside.agents.endpoint import CallFailed, Endpoint, together
from curbside.agents.fleet_spec import Decoding, EndpointAgentSpec, EndpointSpec
from curbside.agents.pictures import data_url
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.vision import Ask, Said, Unsaid, VisionAgent, card_of
from curbside.study import content_hash

__all__ = ["EndpointEngine", "open_endpoint_agent", "served_name"]

#: Alternatives of each token that the server is asked for.
_TOP = 20


class EndpointEngine:
    """See :class:`curbside.agents.vision.Engine`.

    Args:
        model: name under which the server has the model or the adapter.
    """

    def __init__(self, endpoint: Endpoint, model: str, decoding: Decoding) -> None:
        self.endpoint, self.model, self.decoding = endpoint, model, decoding

    def say(self, asks: Iterable[Ask]) -> list[Said | Unsaid]:
        """All asks at once, as many side by side as the endpoint bears."""
        return together(self.say_one(a) for a in asks)

    async def say_one(self, ask: Ask) -> Said | Unsaid:
        """One ask; never raises."""
        started = time.perf_counter()
        try:
            found = await self.endpoint.call("/chat/completions", self.body(ask))
            server = await self.endpoint.server()
            return read_answer(ask, found, time.perf_counter() - started, server)
        except CallFailed as e:
            return Unsaid(e.kind, e.message)
        except asyncio.CancelledError:
            raise
        except Exception as e:  # a bug of ours or of a library must not lose a batch
            return Unsaid("internal", type(e).__name__)

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON of a chat completion."""
        pictures = [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in ask.images]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": ask.system},
                {"role": "user", "content": [*pictures, {"type": "text", "text": ask.text}]},
            ],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "logprobs": True,
        }
        if ask.letters:
            body["top_logprobs"] = _TOP
            if self.decoding.constrain == "choice":
                return body | {"max_tokens": 1, "structured_outputs": {"choice": list(ask.letters)}}
            return body | _held_to("choice", choice_schema(ask.letters))
        return body | _held_to("answer", dict(ask.schema or {}))


def choice_schema(letters: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of one letter."""
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(letters)}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def _held_to(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"name": name, "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def read_answer(ask: Ask, found: Mapping[str, Any], seconds: float, server: str) -> Said | Unsaid:
    """A chat completion as what was said, or why it is unusable."""
    try:
        choice = found["choices"][0]
        content = choice["message"]["content"]
        if not isinstance(content, str):
            raise TypeError
        tokens = int((found.get("usage") or {}).get("total_tokens") or 0)
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        if not ask.letters:
            return Said(
                text=content,
                whole=choice.get("finish_reason") != "length",
                confidence=_mean_probability(logprobs),
                tokens=tokens,
                seconds=seconds,
                server=server,
            )
        letter, at = _letter(content, ask.letters)
        if letter is None:
            return Unsaid("invalid_answer", "the answer is none of the letters")
        if not logprobs:
            return Unsaid("invalid_answer", "the server gives no logprobs for its choice")
        over = letter_probabilities(logprobs, at, ask.letters)
        if over is None:
            return Unsaid("invalid_answer", "none of the letters is among the logprobs")
        return Said(probabilities=over, tokens=tokens, seconds=seconds, server=server)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return Unsaid("invalid_answer", "the answer is no chat completion")


def _letter(content: str, letters: Sequence[str]) -> tuple[str | None, int]:
    """The letter chosen and its place in the text: bare, or the JSON that it was held to."""
    bare = content.strip()
    if bare in letters:
        return bare, content.index(bare)
    try:
        chosen = json.loads(content)
    except ValueError:
        return None, 0
    letter = chosen.get("choice") if isinstance(chosen, dict) and len(chosen) == 1 else None
    if not isinstance(letter, str) or letter not in letters:
        return None, 0
    return letter, content.rindex(letter)


def letter_probabilities(
    logprobs: Sequence[Mapping[str, Any]], at: int, letters: Sequence[str]
) -> tuple[float, ...] | None:
    """Probabilities of the letters, renormalised, from the token that holds character ``at``.

    Letters that are not among the server's alternatives share what those leave, and get at
    most as much as the least of them.
    """
    position, end = logprobs[-1], 0
    for entry in logprobs:
        end += len(entry["token"])
        if end > at:
            position = entry
            break
    found: dict[str, float] = {}
    listed = list(position.get("top_logprobs") or []) or [position]
    values = []
    for alternative in listed:
        value = math.exp(min(float(alternative["logprob"]), 0.0))
        values.append(value)
        token = str(alternative["token"]).strip(" \t\n\"'▁Ġ")
        if token in letters:
            found[token] = found.get(token, 0.0) + value
    if not found or sum(found.values()) <= 0:
        return None
    missing = [x for x in letters if x not in found]
    left = max(0.0, 1.0 - sum(values))
    share = min(left / len(missing), min(values)) if missing else 0.0
    weights = [found.get(x, share) for x in letters]
    total = sum(weights)
    return tuple(w / total for w in weights)


def _mean_probability(logprobs: Sequence[Mapping[str, Any]]) -> float:
    values = [min(float(p["logprob"]), 0.0) for p in logprobs]
    return math.exp(sum(values) / len(values)) if values else math.nan


def served_name(spec: EndpointAgentSpec) -> str:
    """The name that the server knows: the last part of the adapter's path, else the base model."""
    return Path(spec.adapter).name if spec.adapter else spec.base


def open_endpoint_agent(
    name: str,
    spec: EndpointAgentSpec,
    endpoint: EndpointSpec,
    folder: Path | None = None,
    *,
    servers: dict[str, Endpoint] | None = None,
) -> VisionAgent:
    """An agent of kind ``openai`` of a fleet file; nothing is called yet.

    Args:
        servers: endpoints that other agents opened, by name; this one's is taken from there or
            added.  Agents of one server share its breaker, its crowd and its connections.

    Raises:
        ConfigError: the prompt or report template is wrong, or the key is not set.
    """
    prompt, report = load_prompt(spec.prompt, folder), load_report(spec.report, folder)
    mark = content_hash("openai", spec.base, spec.adapter)
    known = {} if servers is None else servers
    if spec.endpoint not in known:
        known[spec.endpoint] = Endpoint(spec.endpoint, endpoint)
    engine = EndpointEngine(known[spec.endpoint], served_name(spec), spec.decoding)
    card = card_of(name, "openai", spec, mark)
    return VisionAgent(card, engine, prompt, report, spec.decoding, spec.limits)
