"""Published data sets as manifests: files of exactly the form in which they are given out.

Each importer turns a folder or file into rows of one manifest (JSONL) and, where images lie
inside an archive, writes them as PNG beside it.  Nothing is downloaded.  Roles follow the
published split; where one split must serve two roles, it is divided by group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from curbside.cases import Cases, read_cases
from curbside.errors import CasesError, UserError
from curbside.evals.import_form import Row, Wanted
from curbside.evals.import_images import datasets, folder, medmnist
from curbside.evals.import_vqa import vqa_med, vqa_rad
from curbside.storage import write_text

__all__ = ["KINDS", "import_cases"]

#: Kind → importer, in the order of the help text.
KINDS: Mapping[str, Callable[[Wanted], Iterator[Row]]] = {
    "vqa-rad": vqa_rad,
    "vqa-med-2019": vqa_med,
    "medmnist": medmnist,
    "folder": folder,
    "datasets": datasets,
}


def import_cases(
    kind: str,
    path: Path,
    out: Path,
    *,
    modality: str = "",
    task: str = "",
    labels: tuple[str, ...] = (),
) -> Cases:
    """Write a manifest of a published set.

    Args:
        kind: one of ``KINDS``.
        out: the manifest, ending in ``.jsonl``.
        modality, task: for sets that name none; the task defaults to the file's name.
        labels: names of the classes 0, 1, … of sets that only number them.

    Raises:
        UserError: unknown kind, or the path is no such set; says what was looked for.
        CasesError: what was found makes no valid manifest.
        StorageError: the manifest or an image cannot be written.
    """
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; valid: {', '.join(KINDS)}")
    if out.suffix != ".jsonl":
        raise UserError(f"{out.name} must end in .jsonl", hint="--out cases.jsonl")
    if not path.exists():
        raise UserError(f"{path} does not exist", hint="give the folder or file of the set")
    wanted = Wanted(path, out, modality, task or path.stem.lower(), labels)
    rows = [{k: v for k, v in r.items() if v not in ("", None, [])} for r in KINDS[kind](wanted)]
    if not rows:
        raise CasesError(f"{path} holds no case of kind {kind}", hint="docs/cases.md")
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    write_text(out, text)
    return read_cases(out)
