"""What ``--agent NAME`` means: an agent of a fleet file, ``lite0``, or a model by its folder."""

from __future__ import annotations

import json
from pathlib import Path

from curbside.agents.finetuning.towers import EMBEDDED
from curbside.agents.finetuning.vlm import VlmBase
from curbside.agents.fleet_spec import (
    EndpointAgentSpec,
    FleetSpec,
    Limits,
    TransformersSpec,
    VisionSpec,
)
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import ReportTemplate, load_report
from curbside.errors import ConfigError, UserError
from curbside.indexes.pretrained import model_folder

__all__ = ["encoder_base", "local_folder", "report_of", "vlm_base"]


def vlm_base(name: str, spec: FleetSpec, folder: Path) -> VlmBase | None:
    """The vision-language model that a name means; None where it means none.

    Args:
        spec: the fleet; ``folder``: what paths in its file are relative to.

    Raises:
        UserError: an agent that is not adapted, or a model that is not here.
        ConfigError: the agent's prompt.
    """
    agent = spec.agents.get(name)
    if isinstance(agent, TransformersSpec | EndpointAgentSpec):
        base = agent.base
        if isinstance(agent, EndpointAgentSpec):
            serve = spec.endpoints[agent.endpoint].serve
            base = serve.model if serve else base
        return VlmBase(
            agent=name,
            name=agent.base,
            folder=local_folder(base, folder),
            prompt=load_prompt(agent.prompt, folder),
            limits=agent.limits,
            adapter=local_folder(agent.adapter, folder) if agent.adapter else None,
            intended_use=agent.card.intended_use,
        )
    if agent is not None:
        raise UserError(
            f"agent {name!r} is of kind {agent.kind}, which is not adapted here; those of the "
            f"fleet that are: {_adaptable(spec) or 'none'}",
            hint="--agent lite0 adapts the embedded encoder to labelled cases",
        )
    if not (Path(name) / "config.json").is_file() or not _speaks(Path(name)):
        return None
    path = Path(name)
    return VlmBase(path.name, path.name, path, load_prompt("plain-1"), Limits())


def encoder_base(name: str) -> tuple[str, Path | None]:
    """The image encoder that a name means, and its folder (None: the embedded one).

    Raises:
        UserError: neither ``lite0`` nor a model that is here.
    """
    if name == EMBEDDED:
        return EMBEDDED, None
    folder = local_folder(name, Path())
    return folder.name if Path(name).is_dir() else name, folder


def report_of(name: str, spec: FleetSpec, folder: Path) -> ReportTemplate:
    """The template of an agent's reports; the one that ships where it has none.

    Raises:
        ConfigError: of the template.
    """
    agent = spec.agents.get(name)
    return load_report(agent.report if isinstance(agent, VisionSpec) else "chest-1", folder)


def local_folder(name: str, beside: Path) -> Path:
    """A folder beside a file, or a model of the local cache.

    Raises:
        UserError: neither is there; nothing is downloaded.
    """
    if (beside / name).is_dir():
        return beside / name
    try:
        return model_folder(name)
    except ConfigError as e:
        raise UserError(
            f"{name!r} is neither a folder nor in the local model cache; nothing is downloaded",
            hint=e.hint.split("   ")[0],
        ) from None


def _speaks(folder: Path) -> bool:
    """Whether a checkpoint is of a model that writes text about images."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        names = config.get("architectures") or [""]
        return "vision_config" in config and "ForConditionalGeneration" in names[0]
    except (OSError, ValueError, AttributeError):
        return False


def _adaptable(spec: FleetSpec) -> str:
    able = (TransformersSpec, EndpointAgentSpec)
    return ", ".join(n for n, a in spec.agents.items() if isinstance(a, able))
