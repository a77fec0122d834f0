"""A fleet as a file: which agents there are, what each says of itself, and how it is reached.

Strict models of ``fleet.yaml``; the JSON Schema in ``docs/fleet.schema.json`` is generated
from here.  Knows no model and opens no connection (:mod:`curbside.agents.opening` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbside.config import load_model
from curbside.errors import ConfigError
from curbside.study import QuestionKind

__all__ = [
    "AgentSpec",
    "CardSpec",
    "Decoding",
    "EmbeddedSpec",
    "EncoderSpec",
    "EndpointAgentSpec",
    "EndpointSpec",
    "FleetSpec",
    "Limits",
    "Patience",
    "PersonSpec",
    "PluginSpec",
    "ServeSpec",
    "SmallVlmSpec",
    "TransformersSpec",
    "VisionSpec",
    "fleet_path",
    "load_fleet_spec",
    "shipped_fleets",
]

_SHIPPED = Path(__file__).parent / "fleets"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CardSpec(_Strict):
    """What an agent says of itself; the card that people and policies read."""

    role: Literal["specialist", "generalist", "person"]
    """A specialist reads its modalities; a generalist anything; a person what is left."""
    modalities: tuple[str, ...] = ()
    """Names as in the manifest of cases; empty means any.  A specialist needs at least one."""
    tasks: tuple[str, ...] = ()
    """Diagnosis tasks it was made for; empty means any."""
    questions: tuple[QuestionKind, ...] = (QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED)
    """Kinds of question that it answers; of others it abstains."""
    licence: str = ""
    """Licence of the model; 'not stated' is an honest value."""
    limits: str = ""
    """What is known that it cannot do."""
    intended_use: str = ""
    """What its makers say that it is for."""
    runs_on: tuple[Literal["cpu", "gpu", "site", "cloud"], ...] = ()
    """Where it may run: hardware, and whether images may leave the site for it."""
    cost: float = Field(default=1.0, ge=0)
    """Cost of one study, in a unit of your choice that is the same for all agents."""
    cost_per_token: float = Field(default=0.0, ge=0)
    """Cost of one token, on top."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.role == "specialist" and not self.modalities:
            raise ValueError("a specialist must name its modalities")
        return self


class Decoding(_Strict):
    """How an answer is got out of a model; part of every reading's fingerprint."""

    orders: int = Field(default=4, ge=1, le=26)
    """Orders in which the options are shown, evenly spaced turns of each other; averaged."""
    samples: int = Field(default=1, ge=1, le=16)
    """Samples of an open answer; from two on the confidence is their agreement."""
    temperature: float = Field(default=0.7, gt=0, le=2)
    """Of the samples; one sample alone is greedy."""
    max_tokens: int = Field(default=256, ge=8, le=8192)
    """Longest answer to an open question."""
    constrain: Literal["choice", "json_schema"] = "json_schema"
    """How a closed answer is held to its letters: ``choice`` is vLLM's structured_outputs,
    ``json_schema`` is a response_format, which other servers know too."""
    seed: int = Field(default=0, ge=0)
    """Of sampling, where the server keeps to it."""


class Limits(_Strict):
    """How much of a study is sent; texts are cut, images are resized, never refused."""

    images: int = Field(default=4, ge=1, le=64)
    """Most images of a study, evenly spaced over its series."""
    least_side: int = Field(default=28, ge=1, le=4096)
    """Images with a shorter side below this are enlarged."""
    greatest_side: int = Field(default=896, ge=16, le=4096)
    """Images with a longer side above this are reduced."""
    text: int = Field(default=2000, ge=16, le=100_000)
    """Most characters of each text: question, option, context, tag."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least_side > self.greatest_side:
            raise ValueError(
                f"least_side {self.least_side} is above greatest_side {self.greatest_side}"
            )
        return self


class Patience(_Strict):
    """When to wait, when to try again, when to stop asking."""

    attempt_seconds: float = Field(default=60, gt=0, le=3600)
    """Longest single attempt, from connecting to the last byte."""
    total_seconds: float = Field(default=120, gt=0, le=7200)
    """Longest call with all its attempts and waits."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Most attempts; only a refused connection, 429 and 5xx are tried again."""
    wait_seconds: float = Field(default=0.5, ge=0, le=60)
    """First wait between attempts; doubles, with jitter; Retry-After goes before it."""
    open_after: int = Field(default=5, ge=1)
    """Failed calls in a row after which the endpoint is left alone."""
    probe_seconds: float = Field(default=15, gt=0)
    """After this long one call is let through to see whether it is back."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Most calls at once; halves when the server is overloaded, then grows one by one."""


class ServeSpec(_Strict):
    """How ``curbside fleet serve`` starts the endpoint's server."""

    model: str
    """Base model of ``vllm serve``."""
    max_model_len: int = Field(default=8192, ge=256)
    """Longest prompt and answer, tokens."""
    gpu: str = ""
    """CUDA_VISIBLE_DEVICES; empty leaves it as it is."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that it may take."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Greatest rank of the adapters."""
    arguments: tuple[str, ...] = ()
    """Further arguments, as they are."""


class EndpointSpec(_Strict):
    """One OpenAI-compatible server."""

    url: str = Field(pattern=r"^https?://[^\s/]+(/[^\s?#]*)?$")
    """Base address, with /v1."""
    key_variable: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    """Environment variable that holds the key; the key itself is never in the file."""
    patience: Patience = Patience()
    serve: ServeSpec | None = None


class VisionSpec(_Strict):
    """What every vision-language agent has."""

    card: CardSpec
    base: str
    """Base model: the name that the server knows, or a folder or name for transformers."""
    adapter: str = ""
    """LoRA adapter: its folder; empty for the base model alone."""
    prompt: str = "plain-1"
    """Prompt template: one that ships, or the path of a file beside the fleet's."""
    report: str = "chest-1"
    """Report template: one that ships, or the path of a file beside the fleet's."""
    decoding: Decoding = Decoding()
    limits: Limits = Limits()


class EndpointAgentSpec(VisionSpec):
    """A model behind an OpenAI-compatible server (vLLM or another)."""

    kind: Literal["openai"]
    endpoint: str
    """One of ``endpoints``."""


class TransformersSpec(VisionSpec):
    """A model in this process, through transformers and peft."""

    kind: Literal["transformers"]
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class SmallVlmSpec(_Strict):
    """The small VLM that ``curbside demo-vlm`` makes of packages and your cases, in process."""

    kind: Literal["small-vlm"]
    card: CardSpec
    folder: str
    """Its folder, beside the fleet file."""


class EmbeddedSpec(_Strict):
    """The agents that ``curbside build`` trained, all or some of them."""

    kind: Literal["embedded"]
    include: tuple[str, ...] = ("*",)
    """Patterns of their names."""
    licence: str = ""
    intended_use: str = ""
    runs_on: tuple[Literal["cpu", "gpu", "site", "cloud"], ...] = ("cpu", "site")


class EncoderSpec(_Strict):
    """An image encoder with heads, as ``curbside finetune`` adapts it."""

    kind: Literal["encoder"]
    card: CardSpec
    base: str
    """``lite0``, or the folder or name of the model that was adapted."""
    adapter: str
    """Folder that ``curbside finetune`` wrote."""


class PersonSpec(_Strict):
    """People: whoever answers in the worklist what no model should."""

    kind: Literal["person"]
    card: CardSpec = CardSpec(role="person")


class PluginSpec(_Strict):
    """An agent of your own, from the entry point group ``curbside.agents``."""

    kind: Literal["plugin"]
    use: str
    """Name of the entry point; it is called as ``open(name, card, settings)``."""
    card: CardSpec
    settings: dict[str, Any] = Field(default_factory=dict)
    """Whatever it wants."""


AgentSpec = Annotated[
    EmbeddedSpec
    | EndpointAgentSpec
    | TransformersSpec
    | EncoderSpec
    | SmallVlmSpec
    | PersonSpec
    | PluginSpec,
    Field(discriminator="kind"),
]


class FleetSpec(_Strict):
    """The whole of a fleet file."""

    version: Literal[1] = 1
    generalist: str = ""
    """The generalist that serves; empty: the one that ``fleet.generalist`` names in curbside.yaml,
    which needs an agent of kind embedded."""
    endpoints: dict[str, EndpointSpec] = Field(default_factory=dict)
    """Servers by name."""
    agents: dict[str, AgentSpec] = Field(min_length=1)
    """Agents by name; of two specialists for one modality the first serves."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, agent in self.agents.items():
            if isinstance(agent, EndpointAgentSpec) and agent.endpoint not in self.endpoints:
                valid = ", ".join(self.endpoints) or "none are given"
                raise ValueError(
                    f"agent {name} names endpoint {agent.endpoint!r}; endpoints: {valid}"
                )
            if isinstance(agent, PersonSpec) != (_role(agent) == "person"):
                raise ValueError(f"agent {name}: role 'person' and kind 'person' go together")
        if not self.generalist and not self.embedded:
            able = [n for n, a in self.agents.items() if _role(a) == "generalist"]
            raise ValueError(
                "generalist is missing: name the one that serves "
                f"({', '.join(able) or 'there is no agent of role generalist'})"
            )
        own = self.agents.get(self.generalist)
        if self.generalist and not self.embedded and (own is None or _role(own) != "generalist"):
            raise ValueError(f"generalist {self.generalist!r} is no agent of role generalist")
        return self

    @property
    def embedded(self) -> bool:
        """Whether agents that ``curbside build`` trains are among them."""
        return any(isinstance(a, EmbeddedSpec) for a in self.agents.values())

    @property
    def only_embedded(self) -> bool:
        """Whether there is nothing else but people: the stored fleet as it is."""
        return not self.generalist and all(
            isinstance(a, PersonSpec) or (isinstance(a, EmbeddedSpec) and a.include == ("*",))
            for a in self.agents.values()
        )

    def askable(self, stored: Sequence[str]) -> tuple[str, ...]:
        """Names of the agents that can be asked, people left out.

        Args:
            stored: names of the agents that ``curbside build`` trained.
        """
        names: list[str] = []
        for name, agent in self.agents.items():
            if isinstance(agent, EmbeddedSpec):
                names += [n for n in stored if any(fnmatchcase(n, p) for p in agent.include)]
            elif not isinstance(agent, PersonSpec):
                names.append(name)
        return tuple(names)


def _role(agent: AgentSpec) -> str:
    return "" if isinstance(agent, EmbeddedSpec) else agent.card.role


def shipped_fleets() -> dict[str, Path]:
    """Fleet files that ship, by name."""
    return {p.stem: p for p in sorted(_SHIPPED.glob("*.yaml"))}


def fleet_path(name: str, beside: Path | None = None) -> Path:
    """The file that ``fleet.file`` of curbside.yaml means.

    Args:
        beside: folder that relative paths start from; default: the working folder.

    Raises:
        ConfigError: neither a fleet that ships nor a file.
    """
    shipped = shipped_fleets()
    if name in shipped:
        return shipped[name]
    path = (beside or Path()) / name
    if path.is_file():
        return path
    raise ConfigError(
        f"fleet.file = {name!r} is neither a fleet that ships ({', '.join(shipped)}) nor a file",
        hint="curbside fleet list",
    )


def load_fleet_spec(path: Path) -> FleetSpec:
    """Read and check a fleet file.

    Raises:
        ConfigError: as :func:`curbside.config.load_config`.
    """
    return load_model(FleetSpec, path, hint=f"edit it, then: curbside fleet show --fleet {path}")
