"""One door to every adaptation: which agent, which cases, which recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curbside.agents.device import on_threads
from curbside.agents.finetuning.adaptable import encoder_base, report_of, vlm_base
from curbside.agents.finetuning.card import AdapterCard
from curbside.agents.finetuning.encoders import finetune_encoder
from curbside.agents.finetuning.material import material_of
from curbside.agents.finetuning.recipe import METHODS, PARTS, Recipe, load_recipe
from curbside.agents.finetuning.runs import began_on
from curbside.agents.finetuning.vlm import finetune_vlm
from curbside.agents.fleet_spec import FleetSpec
from curbside.cases import read_cases
from curbside.errors import UserError

__all__ = ["adapt", "settings"]


def settings(
    path: Path | None, *, method: str | None, parts: str | None, epochs: float | None
) -> Recipe:
    """A recipe from a file, and what the command line says on top.

    Raises:
        ConfigError: of the file.
        UserError: an unknown method or part.
    """
    recipe = load_recipe(path) if path else Recipe()
    said: dict[str, Any] = {"method": method, "epochs": epochs}
    if parts is not None:
        said["parts"] = [p.strip() for p in parts.split(",")]
    given = {k: v for k, v in said.items() if v is not None}
    try:
        return Recipe.model_validate(recipe.model_dump() | given)
    except ValidationError:
        raise UserError(
            f"--method {method or recipe.method}, --parts {parts or ','.join(recipe.parts)}, "
            f"--epochs {epochs or recipe.epochs:g} make no recipe",
            hint=f"methods: {', '.join(METHODS)}; parts: {', '.join(PARTS)}; epochs above 0",
        ) from None


def adapt(
    agent: str,
    manifest: Path,
    out: Path,
    spec: FleetSpec,
    folder: Path,
    recipe: Recipe,
    *,
    shots: int | None,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[AdapterCard, bool]:
    """Check everything, then train; see :func:`curbside.agents.finetuning.vlm.finetune_vlm`.

    Args:
        spec: fleet that names agents; ``folder``: what its paths are relative to.
        say: told what is learned from, before it starts.

    Raises:
        UserError, CasesError: nothing was trained; the message says why.
    """
    base = vlm_base(agent, spec, folder)
    encoder = None if base is not None else _encoder(agent, spec)
    cases = read_cases(manifest)
    material = material_of(
        cases,
        shots=shots,
        seed=seed,
        held_out=0.0 if recipe.method == "linear" else recipe.held_out,
        report=report_of(agent, spec, folder),
        closed_only=encoder is not None,
    )
    watched = len(material.held_out)
    say(
        f"cases     {len(material.train):,} labels to learn from"
        + (f", {watched:,} of other groups watched" if watched else ", none watched")
        + (f"; {material.unusable} cases cannot be used" if material.unusable else "")
        + (f"; {material.passed_by} open questions passed by" if material.passed_by else "")
    )
    with on_threads(began_on(out)):
        if base is not None:
            return finetune_vlm(base, material, recipe, out)
        assert encoder is not None
        return finetune_encoder(*encoder, material, recipe, out)


def _encoder(agent: str, spec: FleetSpec) -> tuple[str, Path | None]:
    try:
        return encoder_base(agent)
    except UserError:
        raise UserError(
            f"--agent {agent!r} is no agent of the fleet, not lite0, and no model that is here; "
            f"agents: {', '.join(spec.agents)}",
            hint="curbside fleet list, or give the folder of a model",
        ) from None
