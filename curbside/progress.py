"""One progress bar for everything that takes over two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["Advance", "Expect", "Show", "bar", "growing_steps", "steps"]

Advance = Callable[[int], None]
#: Called with how many more are done and a note; from any thread.
Show = Callable[[int, str], None]
#: Called with how many there will be in all, as far as is known by now; from any thread.
Expect = Callable[[int], None]
#: Seconds between two lines of a long run that nobody watches on a terminal.
_LINE_EVERY = 30.0


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """:func:`steps` of a known number, with nothing to say beside; yields what advances it."""
    with steps(label, total) as show:
        yield lambda n: show(n, "")


@contextmanager
def steps(label: str, total: int | None) -> Iterator[Show]:
    """:func:`growing_steps` of a number that is known before, or never."""
    with growing_steps(label, total) as (show, _):
        yield show


@contextmanager
def growing_steps(label: str, total: int | None = None) -> Iterator[tuple[Show, Expect]]:
    """Show ``label`` with rate, time left and a note on stderr; the total may come to be known.

    On a terminal it is drawn live; elsewhere (CI logs) a line is printed every half minute and at
    the end.
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
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    live = console.is_terminal
    turn = Lock()
    with Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task(label, total=total, rate="", note="")

        def line(note: str) -> None:
            seconds = max(time.monotonic() - started, 1e-9)
            rate = done / seconds
            said = [f"{done}" if total is None else f"{done} of {total}", f"{rate:.1f}/s"]
            if total is not None and rate and done < total:
                said.append(f"{(total - done) / rate:.0f} s left")
            else:
                said.append(f"{seconds:.0f} s")
            text = f"{label}: {', '.join(said)}" + (f"; {note}" if note else "")
            console.print(text, markup=False, highlight=False)

        def show(n: int, note: str) -> None:
            nonlocal done, last
            with turn:
                done += n
                seconds = max(time.monotonic() - started, 1e-9)
                progress.update(task, advance=n, rate=f"{done / seconds:.1f}/s", note=note)
                ended = done == total  # the end has a line of its own
                if not live and not ended and time.monotonic() - last > _LINE_EVERY:
                    last = time.monotonic()
                    line(note)

        def expect(n: int) -> None:
            nonlocal total
            with turn:
                total = n
                progress.update(task, total=n)

        yield show, expect
        if not live:
            line(progress.tasks[0].fields["note"])
