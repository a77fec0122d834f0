"""A benchmark's result as one page of Markdown, for the docs."""

from __future__ import annotations

from curbside.evals.detail_tables import detail_tables, markdown, uncorrected
from curbside.evals.schema import ContrastSummary, Control, Summary
from curbside.evals.table import (
    CONTROLS_ARE,
    REGISTERED_ARE,
    control_cells,
    lines,
    rows,
    shown_controls,
)

__all__ = ["benchmark_page", "run_page"]


def benchmark_page(summary: Summary, seconds: float) -> str:
    """The page of a benchmark, as kept in the docs.

    Args:
        seconds: wall time of the run; with what was reused it says little, and the page says so.
    """
    took = (
        f"; this run took {seconds / 60:.0f} minutes (less than a first run where parts were "
        "reused). `make benchmark` makes it again; [evaluation.md](evaluation.md) says what each "
        "number is."
    )
    return _page(summary, "Benchmark", took)


def run_page(summary: Summary) -> str:
    """The page of one run."""
    return _page(summary, "Does routing pay here?", ".")


def _page(s: Summary, title: str, made: str) -> str:
    """Verdict first, then the table, the contrasts, the controls, notes and versions."""
    seeds = ", ".join(map(str, s.protocol.training_seeds))
    kind = "phantoms (generated pictures)" if s.phantoms else "real images"
    head = [
        f"# {title}",
        "",
        f"**{s.verdict[:1].upper()}{s.verdict[1:]}**",
        "",
        f"{s.generated_at[:10]}, {s.machine}; {kind}, {s.cases.manifest}: {s.cases.n_scored} cases "
        f"with a task and {s.cases.n_novel} novel in {s.cases.n_groups} groups; training seeds "
        f"{seeds}; {s.protocol.replicates} bootstrap replicates{made}",
        "",
        "| arm | accuracy | 95 % | common | rare | rare findings | P2 | calls | ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *("| " + " | ".join(c.strip() for c in row) + " |" for row in rows(s)),
        "",
        uncorrected(len(rows(s))),
        "",
        "```",
        *lines(s),
        "```",
        "",
        "## Registered comparisons",
        "",
        REGISTERED_ARE,
        "",
        "| contrast | difference | 95 % | p (Holm) | minimum detectable | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_row(c) for c in s.contrasts if not c.id.startswith("beside")),
        "",
        "## Beside them",
        "",
        uncorrected(sum(c.id.startswith("beside") for c in s.contrasts)),
        "",
        "| contrast | difference | 95 % | p | minimum detectable | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_row(c) for c in s.contrasts if c.id.startswith("beside")),
        "",
        "## Controls",
        "",
        CONTROLS_ARE,
        "",
        "| control | cases | value | 95 % | held against | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_control(c) for c in shown_controls(s)),
        "",
        *markdown(detail_tables(s)),
        "## Notes",
        "",
        *(f"- {n}" for n in s.notes),
        f"- subgroups: {s.subgroups}",
        f"- {s.research_use}",
        "",
        "## Versions",
        "",
        *(f"- {k}: `{v}`" for k, v in s.versions.items()),
    ]
    return "\n".join(head) + "\n"


def _control(c: Control) -> str:
    cells = control_cells(c)
    return "| " + " | ".join(cells) + " |"


def _row(c: ContrastSummary) -> str:
    def number(v: float | None) -> str:
        return "–" if v is None else f"{v:+.4f}"

    p = c.p if c.id.startswith("beside") else c.p_holm
    cells = (
        c.id,
        number(c.delta),
        f"[{number(c.ci_low)}, {number(c.ci_high)}]",
        "–" if p is None else f"{p:.4f}",
        "–" if c.minimum_detectable is None else f"{c.minimum_detectable:.4f}",
        c.verdict,
    )
    return "| " + " | ".join(cells) + " |"
