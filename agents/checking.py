"""Does each agent of a fleet work, and if not, what is wrong and what mends it?

Every check is a fact about one agent.  A generated picture of one colour is shown and its
colour asked for: a server that drops images answers too, but not that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from curbside.agents.contract import Agent, AnyResponse
from curbside.agents.endpoint import CallFailed, Endpoint, together
from curbside.agents.endpoint_agent import EndpointEngine
from curbside.agents.injections import picture, study_of
from curbside.agents.vision import VisionAgent
from curbside.readings import Abstention, Reading
from curbside.study import Question, QuestionKind

__all__ = ["Finding", "check_agent"]

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}


@dataclass(frozen=True)
class Finding:
    """One check of one agent.  ``ok`` is None where it could not be looked at."""

    agent: str
    check: str
    ok: bool | None
    said: str
    mend: str = ""


def check_agent(
    agent: Agent, *, serve: str = "", repeats: int = 3, questions: tuple[Question, ...] = ()
) -> Iterator[Finding]:
    """Everything there is to know of an agent, the most basic first; stops at what is fatal.

    Args:
        serve: the command that starts the agent's server.
        questions: for agents that know no colours, closed questions that they were made for.
    """
    name = agent.card.name
    if agent.card.role == "person":
        yield Finding(name, "people", True, "answer in the worklist: curbside console")
        return
    if not isinstance(agent, VisionAgent):
        yield from _reads(agent, questions)
        return
    if isinstance(agent.engine, EndpointEngine):
        try:
            yield from _server(name, agent.engine, serve)
        except _Stop:
            return
    yield from _sees(agent, serve, repeats)


class _Stop(Exception):
    pass


def _server(name: str, engine: EndpointEngine, serve: str) -> Iterator[Finding]:
    endpoint = engine.endpoint
    start = f"start it: {serve}" if serve else f"start a server at {endpoint.spec.url}"
    found = _models(endpoint)
    if isinstance(found, CallFailed):
        key = endpoint.spec.key_variable
        refused = "key" in found.message
        mend = f"export {key or 'a variable, and name it as key_variable'}" if refused else start
        yield Finding(name, "reachable", False, f"{endpoint.spec.url}: {found.message}", mend)
        raise _Stop
    (server,) = together([endpoint.server()])
    yield Finding(name, "reachable", True, f"{endpoint.spec.url} ({server})")
    if engine.model not in found:
        said = f"{engine.model!r} is not loaded; loaded: {', '.join(found) or 'nothing'}"
        mend = f"change the fleet file, or serve it: {serve}" if serve else "change the fleet file"
        yield Finding(name, "model", False, said, mend)
        raise _Stop
    yield Finding(name, "model", True, f"{engine.model} is loaded")


def _models(endpoint: Endpoint) -> list[str] | CallFailed:
    async def ask() -> list[str] | CallFailed:
        try:
            return await endpoint.models()
        except CallFailed as e:
            return e

    return together([ask()])[0]


def _sees(agent: VisionAgent, serve: str, repeats: int) -> Iterator[Finding]:
    name, card = agent.card.name, agent.card
    kind = next(
        (k for k in (QuestionKind.VQA_CLOSED, QuestionKind.DIAGNOSIS) if k in card.question_kinds),
        None,
    )
    if kind is not None:
        asked = Question(options=tuple(COLOURS), text="What colour is the picture?", kind=kind)
        right, times = 0, []
        for colour, rgb in COLOURS.items():
            plain = np.full((96, 96, 3), rgb, np.uint8)
            started = time.perf_counter()
            response = agent.read(study_of(plain, question=asked))
            times.append(time.perf_counter() - started)
            if not isinstance(response, Reading):
                yield _failed(name, "closed questions", response, serve)
                return
            right += response.answer == colour
        yield Finding(name, "structured output", True, "closed answers hold to their letters")
        yield Finding(name, "logprobs", True, "options have probabilities")
        sees = right == len(COLOURS)
        mend = (
            ""
            if sees
            else "is it a vision model, and does its chat template take images? ask it by hand"
        )
        said = f"{right} of {len(COLOURS)} plain colours named right"
        yield Finding(name, "vision", sees, said, mend)
        for _ in range(repeats):
            started = time.perf_counter()
            agent.read(study_of(picture(0), question=asked))
            times.append(time.perf_counter() - started)
        yield Finding(name, "latency", True, f"{1000 * float(np.median(times)):.0f} ms a study")
    if QuestionKind.VQA_OPEN in card.question_kinds:
        asked = Question(text="What is to be seen?", kind=QuestionKind.VQA_OPEN)
        response = agent.read(study_of(picture(0), question=asked))
        if isinstance(response, Reading):
            held = isinstance(agent.engine, EndpointEngine)
            said = "answers hold to their schema" if held else "answered; nothing holds it to JSON"
            yield Finding(name, "open questions", True, said)
        else:
            yield _failed(name, "open questions", response, serve)


def _failed(name: str, check: str, response: AnyResponse, serve: str) -> Finding:
    if isinstance(response, Abstention):
        return Finding(name, check, False, f"abstained: {response.reason}", "change its card")
    said = "" if isinstance(response, Reading) else response.message
    mends: dict[str, Callable[[], str]] = {
        "logprobs": lambda: "serve it with --max-logprobs 20",
        "none of the letters": lambda: "try decoding.constrain: json_schema (or choice for vLLM)",
        "schema": lambda: "raise decoding.max_tokens, or take a server that holds to a JSON schema",
        "HTTP 400": lambda: (
            "is max_model_len long enough for its images? try a smaller limits.greatest_side"
        ),
        "cannot be loaded": lambda: "give a folder with safetensors that transformers can load",
    }
    mend = next((m() for key, m in mends.items() if key in said), f"read its log; {serve}")
    return Finding(name, check, False, said, mend)


def _reads(agent: Agent, questions: tuple[Question, ...]) -> Iterator[Finding]:
    name = agent.card.name
    own = [q for q in questions if not agent.card.tasks or q.task in agent.card.tasks]
    for question in own[:1]:
        started = time.perf_counter()
        response = agent.read(study_of(picture(0), question=question))
        took = 1000 * (time.perf_counter() - started)
        if isinstance(response, Reading):
            yield Finding(name, "reads", True, f"a generated picture in {took:.0f} ms")
        else:
            said = response.reason if isinstance(response, Abstention) else response.message
            yield Finding(name, "reads", False, said, "curbside build --cases MANIFEST")
        return
    yield Finding(name, "reads", None, "no question is known that it was made for")
