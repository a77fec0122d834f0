"""Which cases a whole-evaluation suite means, and the build that they are evaluated on."""

from __future__ import annotations

from pathlib import Path

from curbside.config import Config
from curbside.errors import UserError
from curbside.evals.suite import EvaluationRun
from curbside.home import corpus_manifest
from curbside.router.building import build_home
from curbside.router.workspace import Workspace

__all__ = ["suite_cases"]


def suite_cases(
    run: EvaluationRun, file: Path, workspace: Workspace
) -> tuple[Workspace, Path, bool]:
    """The workspace, the manifest, and whether it is of phantoms.

    Phantoms are drawn and built under ``suites/`` of the home folder, apart from what serves.

    Raises:
        UserError: the suite asks for the corpus and there is none.
    """
    if run.cases == "corpus":
        manifest = corpus_manifest()
        if manifest is None:
            raise UserError(
                "this suite is about the corpus of real images, and there is none here",
                hint="set CURBSIDE_CORPUS, or: curbside eval run phantoms --out DIR",
            )
        return workspace, manifest, False
    if run.cases != "phantoms":
        return workspace, (file.parent / run.cases), False
    from curbside.cases import read_cases
    from curbside.phantoms import write_phantoms

    own = workspace.home / "suites" / f"{file.stem}-{run.scale:g}"
    manifest = own / "phantoms" / "manifest.csv"
    if not manifest.is_file():
        write_phantoms(manifest.parent, scale=run.scale)
    built = Workspace(own, run.config or Config())
    build_home(built, read_cases(manifest))
    return built, manifest, True
