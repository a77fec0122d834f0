"""A benchmark's result as one page of Markdown, for the docs."""

from __future__ import annotations

from curbside.evals.schema import ContrastSummary, Summary
from curbside.evals.table import lines, rows

__all__ = ["benchmark_page"]


def benchmark_page(summary: Summary, seconds: float) -> str:
    """The page: verdict first, then the table, the registered contrasts and the notes.

    Args:
        seconds: wall time of the run; with what was reused it says little, and the page says so.
    """
    s = summary
    seeds = ", ".join(map(str, s.protocol.training_seeds))
    kind = "phantoms (generated pictures)" if s.phantoms else "real images"
    head = [
        "# Benchmark",
        "",
        f"**{s.verdict}**",
        "",
        f"{s.generated_at[:10]}, {s.machine}; {kind}, {s.cases.manifest}: {s.cases.n_scored} cases "
        f"with a task and {s.cases.n_novel} novel in {s.cases.n_groups} groups; training seeds "
        f"{seeds}; {s.protocol.replicates} bootstrap replicates; this run took "
        f"{seconds / 60:.0f} minutes (less than a first run where parts were reused). "
        "`make benchmark` makes it again; [evaluation.md](evaluation.md) says what each number is.",
        "",
        "| arm | accuracy | 95 % | common | rare | rare findings | P2 | calls | ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *("| " + " | ".join(c.strip() for c in row) + " |" for row in rows(s)),
        "",
        "```",
        *lines(s),
        "```",
        "",
        "## Registered comparisons",
        "",
        "| contrast | difference | 95 % | p (Holm) | minimum detectable | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_row(c) for c in s.contrasts if not c.id.startswith("beside")),
        "",
        "## Beside them",
        "",
        "| contrast | difference | 95 % | p | minimum detectable | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_row(c) for c in s.contrasts if c.id.startswith("beside")),
        "",
        "## Notes",
        "",
        *(f"- {n}" for n in s.notes),
        f"- subgroups: {s.subgroups}",
        f"- {s.research_use}",
    ]
    return "\n".join(head) + "\n"


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
