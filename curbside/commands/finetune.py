"""``curbside finetune``: adapt an agent to labelled cases, and see what labels buy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.finetune_curve import finetune_curve
from curbside.commands.finetune_promote import finetune_promote

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``finetune`` to the command line."""
    group = typer.Typer(
        invoke_without_command=True,
        no_args_is_help=True,
        help="Adapt an agent to labelled cases, or see what labels buy.",
    )
    group.callback()(finetune)
    group.command("promote")(finetune_promote)
    group.command("curve")(finetune_curve)
    group.command("vllm-base")(vllm_base)
    app.add_typer(group, name="finetune")


def finetune(
    context: typer.Context,
    agent: Annotated[
        str, typer.Option(help="An agent of the fleet, lite0, or the folder of a model.")
    ] = "",
    cases: Annotated[
        Path | None, typer.Option(help="Manifest; rows of role train are learned from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the adapter; a killed training goes on in it.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Most cases a label; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the training.")] = 0,
    method: Annotated[
        str | None, typer.Option(help="lora; of encoders also linear and last-block.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(help="Of a vision-language model: language, projector, vision; by commas."),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0, help="Times round the cases, at most.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="File with all settings; options go before it.")
    ] = None,
    fleet: Annotated[
        str,
        typer.Option(
            help="Fleet that names the agent; default: fleet.file of curbside.yaml.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Adapt an agent to labelled cases: a safetensors adapter and its card.

    Killed at any moment, the same command goes on and ends with the same adapter.
    """
    if context.invoked_subcommand is not None:
        return
    from curbside.agents.finetuning.adapting import adapt, settings
    from curbside.commands.fleet import fleet_file
    from curbside.errors import UserError

    if not agent or cases is None or out is None:
        raise UserError(
            "--agent, --cases and --out are needed",
            hint="curbside finetune --agent NAME --cases MANIFEST --out DIR",
        )
    spec, path = fleet_file(fleet)
    chosen = settings(recipe, method=method, parts=parts, epochs=epochs)
    card, was_there = adapt(
        agent, cases, out, spec, path.parent, chosen, shots=shots, seed=seed, say=typer.echo
    )
    if was_there:
        typer.echo("this very training is finished already: nothing was trained")
    best = card.metrics.get("loss on held-out groups, best")
    typer.echo(
        f"learned   {card.trainable:,} of {card.parameters:,} numbers ({100 * card.share:.2g} %) "
        f"from {card.labels:,} labels\n"
        f"took      {card.seconds:.0f} s, {card.steps} of {card.planned_steps} steps, at most "
        f"{card.peak_mib / 1024:.1f} GiB"
    )
    if best is not None:
        typer.echo(f"held out  loss {best:.3f} on {card.held_out} labels of whole groups")
    if not card.improved:
        typer.echo("outcome   no look was better than the start, the linear probe: that is kept")
    typer.echo(f"vLLM      {card.vllm or 'serves it'}")
    typer.echo(f"adapter   {out}   (its card: {out / 'README.md'})")
    typer.echo(f"next: curbside finetune promote {out} --cases {cases} --fleet FILE")


def vllm_base(
    base: Annotated[Path, typer.Argument(help="Folder of a model as transformers writes it.")],
    out: Annotated[Path, typer.Argument(help="Folder of the copy.")],
) -> None:
    """Copy a model with the tensor names that vLLM looks for, where they differ (LLaVA)."""
    from curbside.agents.finetuning.export import for_vllm

    typer.echo(f"written   {for_vllm(base, out)}")
