"""What holds for every test: a home and a working folder of its own, one thread, no corpus."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Read before any test can change it.
_CORPUS = Path(os.environ.get("CURBSIDE_CORPUS") or ROOT.parent / "shared" / "corpus").resolve()

# before numpy, torch or FAISS is imported: several test runs share a machine's cores
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def pytest_configure(config: pytest.Config) -> None:
    """Tests hold bits and numbers of the processor; those of a GPU are asked for: ``-m gpu``."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def curbside_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty home.  The working folder moves too: a corpus is looked for beside it."""
    own = tmp_path_factory.mktemp("curbside")
    home = own / "home"
    monkeypatch.setenv("CURBSIDE_HOME", str(home))
    monkeypatch.delenv("CURBSIDE_CORPUS", raising=False)
    work = own / "work" / "here"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return home


@pytest.fixture(scope="session")
def corpus() -> Path | None:
    """The manifest of the real images where this machine has them, else None."""
    manifest = _CORPUS / "manifest.csv"
    return manifest if manifest.is_file() else None
