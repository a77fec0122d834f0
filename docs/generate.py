"""Writes the generated reference: the command line and the JSON Schemas (``make docs``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.main import get_command

from curbside.cli import app
from curbside.config import Config

DOCS = Path(__file__).resolve().parent


def cli_reference() -> str:
    """Every command with its help, as Markdown."""
    parts = ["# Command line\n\nWritten by `make docs`; do not edit.\n"]

    def describe(command: Any, name: str, parent: Any) -> None:
        # typer carries a copy of click, so its own context class is asked for
        context = command.context_class(command, info_name=name, parent=parent, terminal_width=88)
        parts.append(f"\n## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```\n")
        for child, found in getattr(command, "commands", {}).items():
            describe(found, child, context)

    describe(get_command(app), "curbside", None)
    return "".join(parts)


def config_schema() -> str:
    """JSON Schema of curbside.yaml."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def summary_schema() -> str:
    """JSON Schema of an evaluation's summary.json."""
    from curbside.evals.summary import json_schema

    return json_schema()


def fleet_schema() -> str:
    """JSON Schema of a fleet file."""
    from curbside.agents.fleet_spec import FleetSpec

    return json.dumps(FleetSpec.model_json_schema(), indent=2) + "\n"


def suite_schema() -> str:
    """JSON Schema of a suite of evaluations."""
    from curbside.evals.suite import suite_schema as schema

    return schema()


def rules_schema() -> str:
    """JSON Schema of the gate's rules."""
    from curbside.evals.gate import GateRules

    return json.dumps(GateRules.model_json_schema(), indent=2) + "\n"


def probes_schema() -> str:
    """JSON Schema of a file of policy probes."""
    from curbside.evals.probes import Probes

    return json.dumps(Probes.model_json_schema(), indent=2) + "\n"


GENERATED = {
    "cli.md": cli_reference,
    "curbside.schema.json": config_schema,
    "fleet.schema.json": fleet_schema,
    "gate.schema.json": rules_schema,
    "probes.schema.json": probes_schema,
    "suite.schema.json": suite_schema,
    "summary.schema.json": summary_schema,
}


def main() -> None:
    """Write all of them."""
    for name, make in GENERATED.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
