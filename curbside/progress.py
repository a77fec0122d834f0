"""One progress bar for everything that takes over two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "Show", "bar", "steps"]

Advance = Callable[[int], None]
#: Called with how many more are done and a note.
Show = Callable[[int, str], None]
#: Seconds between two lines of a long run that nobody watches on a terminal.
_LINE_EVERY = 30.0


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """Show ``label`` with rate and remaining time on stderr; yields a function to advance it.

    On a terminal it is drawn live; elsewhere (CI logs) one line is printed at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def steps(label: str, total: int | None) -> Iterator[Show]:
    """Like :func:`bar`, with rate and a note, and a total that may be unknown.

    Elsewhere than on a terminal a line is printed every half minute and at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, soft_wrap=True)
    done, started, last = 0, time.monotonic(), time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    live = console.is_terminal
    with Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task(label, total=total, rate="", note="")

        def line(note: str) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            said = [f"{done}" if total is None else f"{done} of {total}", f"{rate:.1f}/s"]
            if total is not None and rate and done < total:
                said.append(f"{(total - done) / rate:.0f} s left")
            console.print(f"{label}: {', '.join(said)}; {note}", markup=False, highlight=False)

        def show(n: int, note: str) -> None:
            nonlocal done, last
            done += n
            seconds = max(time.monotonic() - started, 1e-9)
            progress.update(task, advance=n, rate=f"{done / seconds:.1f}/s", note=note)
            if not live and time.monotonic() - last > _LINE_EVERY:
                last = time.monotonic()
                line(note)

        yield show
        if not live:
            line(progress.tasks[0].fields["note"])
