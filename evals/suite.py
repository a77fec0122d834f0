"""Suites: what is evaluated, how and on which cases, as strict YAML files.

``evals/suites`` holds those that ship; a file of one's own has the same form.  A suite of kind
``evaluation`` ends in a whole run; the others end in a table with its provenance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curbside.config import Config, load_model
from curbside.errors import UserError
from curbside.storage import write_text

__all__ = [
    "SUITES",
    "EvaluationRun",
    "FewShotRun",
    "LeaveOneOutRun",
    "PerturbationsRun",
    "Suite",
    "SuiteResult",
    "TagNoiseRun",
    "VqaRun",
    "load_suite",
    "suite_names",
    "suite_schema",
    "table_lines",
    "write_result",
]

#: Folder of the suites that ship.
SUITES = Path(__file__).parent / "suites"
Cell = str | int | float | None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EvaluationRun(_Strict):
    """Arms, gates, comparisons, controls and verdict."""

    kind: Literal["evaluation"]
    cases: str
    """``corpus``, ``phantoms``, or the path of a manifest, relative to the suite's file."""
    scale: float = Field(default=1.0, ge=0.05, le=10)
    """Size of the phantom set."""
    config: Config | None = None
    """For phantoms: how they are built; other cases are evaluated on what was built."""
    replicates: int = Field(default=2000, ge=100)
    """Bootstrap replicates."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""


class LeaveOneOutRun(_Strict):
    """The index fitted without one modality, source or label at a time; role ``tune``."""

    kind: Literal["leave-one-out"]
    of: Literal["modality", "source", "label"]
    minimum: int = Field(default=10, ge=1)
    """Fewest held-out cases of role train and tune."""
    most: int = Field(default=50, ge=1)
    """At most so many values, those with most cases first."""


class FewShotRun(_Strict):
    """Heads by number of labelled cases; role ``tune``."""

    kind: Literal["few-shot"]
    shots: list[Annotated[int, Field(ge=1)] | Literal["all"]] = [1, 4, 16, 64, "all"]
    """Training cases a label."""
    seeds: int = Field(default=3, ge=1, le=50)
    """Draws of the few."""


class PerturbationsRun(_Strict):
    """Changes of the image; role ``tune``."""

    kind: Literal["perturbations"]
    sample: int = Field(default=60, ge=2)
    """Cases that are decided again under every change."""


class TagNoiseRun(_Strict):
    """Wrong tags; role ``tune``."""

    kind: Literal["tag-noise"]
    rates: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.05, 0.15, 0.3, 0.5]
    """Shares of cases with a wrong body part, or a wrong modality code."""


class VqaRun(_Strict):
    """Questions about images, all agents; test questions of VQA-RAD, or of phantoms."""

    kind: Literal["vqa"]
    path: str | None = None
    """VQA-RAD as published; default: the corpus's, else questions about phantoms."""
    most: int = Field(default=1000, ge=1)
    """At most so many questions."""


Run = Annotated[
    EvaluationRun | LeaveOneOutRun | FewShotRun | PerturbationsRun | TagNoiseRun | VqaRun,
    Field(discriminator="kind"),
]


class Suite(_Strict):
    """One suite."""

    version: Literal[1] = 1
    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    about: str
    """What is asked, in one line."""
    run: Run


class SuiteResult(_Strict):
    """A table with where it comes from; ``suite.json``."""

    schema_version: Literal[1] = 1
    suite: Suite
    cases: str
    """Which cases, of which role."""
    columns: list[str]
    rows: list[list[Cell]]
    """One a line; null where not assessable.  Shares are in [0, 1]."""
    notes: list[str]
    versions: dict[str, str]
    generated_at: str


def suite_names() -> tuple[str, ...]:
    """Names of the suites that ship, sorted."""
    return tuple(sorted(p.stem for p in SUITES.glob("*.yaml")))


def load_suite(text: str) -> tuple[Suite, Path]:
    """A suite by its name or its file, and the file.

    Raises:
        UserError: neither; names the suites that there are.
        ConfigError: the file is wrong.
    """
    path = SUITES / f"{text}.yaml" if text in suite_names() else Path(text)
    if not path.is_file():
        raise UserError(
            f"{text!r} is neither a suite nor a file; suites: {', '.join(suite_names())}",
            hint="curbside eval suites",
        )
    return load_model(Suite, path, hint=f"edit {path.name} (docs/suites.md), run again"), path


def suite_schema() -> str:
    """The JSON Schema of a suite, as kept in ``docs/suite.schema.json``."""
    return json.dumps(Suite.model_json_schema(), indent=2) + "\n"


def table_lines(result: SuiteResult) -> list[str]:
    """The table for people: shares in per cent, text to the left."""
    shown = [[_cell(v) for v in row] for row in result.rows]
    table = [result.columns, *shown]
    wide = [max(len(row[i]) for row in table) for i in range(len(result.columns))]
    out = []
    for row in table:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, wide, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    return [f"{result.suite.name}: {result.suite.about}", result.cases, "", *out, "", *result.notes]


def write_result(result: SuiteResult, folder: Path) -> None:
    """``suite.json`` and ``suite.md``.  Raises StorageError."""
    body: Any = result.model_dump(mode="json")
    text = json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(folder / "suite.json", text)
    rows = [[_cell(v) for v in row] for row in result.rows]
    page = [
        f"# {result.suite.name}",
        "",
        f"{result.suite.about}. {result.cases}; {result.generated_at}.",
        "",
        "| " + " | ".join(result.columns) + " |",
        "|" + " --- |" + " ---: |" * (len(result.columns) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {n}" for n in result.notes),
        "",
        *(f"- {k}: `{v}`" for k, v in result.versions.items()),
    ]
    write_text(folder / "suite.md", "\n".join(page) + "\n")


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)
