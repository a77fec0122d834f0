"""The router's picture, wired: intake → encode → assess → decide ⇄ read → record, and review.

Nodes are thin and idempotent: each looks up or computes its one thing through a
:class:`Desk` and writes ids and numbers into the state.  What decides is the policy, the
same that replay runs.  A case that needs a person stops in ``review`` by an interrupt and
goes on from its checkpoint, with this process or another one.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Send, interrupt

from curbside.router.state import State

__all__ = ["Desk", "build_graph"]


class Errand(TypedDict):
    """What is sent to ``read``: one agent to ask about one case."""

    case: str
    agent: str
    question: dict[str, Any]


class Desk(Protocol):
    """What the nodes call; holds pixels and models so that the state need not."""

    def intake(self, state: State) -> State: ...

    def encode(self, state: State) -> State: ...

    def assess(self, state: State) -> State: ...

    def decide(self, state: State) -> State: ...

    def ask(self, case: str, agent: str, question: dict[str, Any]) -> dict[str, Any]: ...

    def record(self, state: State) -> State: ...


def build_graph(desk: Desk, checkpointer: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Wire the graph over a desk."""

    def read(state: Errand) -> State:
        said = desk.ask(state["case"], state["agent"], state["question"])
        return {"responses": {state["agent"]: said}}

    def review(state: State) -> State:
        shown = state["record"] or {}
        answer = interrupt({"case": state["case"], "outcome": shown.get("outcome")})
        return {"review": answer}

    def after_encode(state: State) -> Literal["assess", "record"]:
        return "record" if state.get("problem") else "assess"

    def after_decide(state: State) -> list[Send] | Literal["record"]:
        asking = [
            Send("read", {"case": state["case"], "agent": a, "question": state["question"]})
            for a in state.get("asking", [])
        ]
        return asking or "record"

    def after_record(state: State) -> str:
        outcome = (state["record"] or {})["outcome"]
        return "review" if outcome["status"] == "needs_review" else END

    graph = StateGraph(State)
    graph.add_node("intake", desk.intake)
    graph.add_node("encode", desk.encode)
    graph.add_node("assess", desk.assess)
    graph.add_node("decide", desk.decide)
    graph.add_node("read", read)
    graph.add_node("record", desk.record)
    graph.add_node("review", review)
    graph.add_edge(START, "intake")
    graph.add_edge("intake", "encode")
    graph.add_conditional_edges("encode", after_encode)
    graph.add_edge("assess", "decide")
    graph.add_conditional_edges("decide", after_decide, ["read", "record"])
    graph.add_edge("read", "decide")
    graph.add_conditional_edges("record", after_record, ["review", END])
    graph.add_edge("review", "record")
    return graph.compile(checkpointer=checkpointer)
