"""A path that was typed: refused where nothing is there, without its name in an error or a log.

A file's name may be a patient's.  Whoever typed it may see it again, so it is shown where stderr
is a terminal; an error goes to logs and callers too and says only what is wrong with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

__all__ = ["must_exist"]


def must_exist(path: Path, command: str) -> None:
    """Refuse a path without anything at it, before anything is opened.

    Args:
        command: what to type, e.g. ``curbside route PATH``.

    Raises:
        ImageError: ``missing``: nothing is there; ``unreadable``: the system does not say.
    """
    from curbside.errors import ImageError

    try:
        if path.exists():
            return
        reason, said = "missing", "there is no such file or folder (missing)"
        around = "is there" if path.absolute().parent.is_dir() else "is not there either"
        said += f"; the folder that it would lie in {around}"
    except OSError as e:
        reason, said = "unreadable", f"the path cannot be looked at ({e.strerror})"
    if sys.stderr.isatty():
        typer.echo(f"given: {path}", err=True)
        if not path.is_absolute():
            typer.echo(f"looked for at: {path.absolute()}", err=True)
    raise ImageError(
        reason, said, hint=f"give an image, a DICOM file, a folder or a zip archive: {command}"
    )
