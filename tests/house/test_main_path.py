"""The main path on a few phantoms, as a user walks it: demo, demo again, route, evaluate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from curbside.cases import Cases, read_cases
from curbside.cli import app
from curbside.errors import CurbsideError, ImageError, NotBuilt, UserError
from curbside.phantom_dicom import as_dicom
from curbside.readings import CaseRecord, Status
from curbside.storage import file_digest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
#: Few cases, so few are enough for a specialist and for p-values.
CONFIG = """
fleet: {specialist_minimum: 12, shots: 4}
index: {stratum_minimum: 8}
policy: {kind: tier, minimum_support: 12}
"""
DEMO = ("demo", "--phantoms", "--scale", "0.12", "--replicates", "100")


@dataclass(frozen=True)
class Built:
    """A home in which the demo has run."""

    home: Path
    printed: str
    seconds: float
    cases: Cases

    def one(self, *, role: str, tier: str) -> Path:
        return self.cases[int(self.cases.where(role=role, tier=tier)[0])].image


def call(home: Path, *arguments: str | Path) -> Result:
    """Run a command line in this process; an error on purpose is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURBSIDE_HOME", str(home))
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def fails(home: Path, *arguments: str | Path) -> CurbsideError:
    with pytest.raises(CurbsideError) as e:
        call(home, *arguments)
    return e.value


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("demo")
    (home / "curbside.yaml").write_text(CONFIG)
    started = time.perf_counter()
    result = call(home, *DEMO)
    seconds = time.perf_counter() - started
    assert result.exit_code == 0, result.output
    (manifest,) = (home / "phantoms").rglob("manifest.csv")
    return Built(home, result.output, seconds, read_cases(manifest))


def test_the_demo_prints_what_a_person_reads(built: Built) -> None:
    printed = " ".join(built.printed.split())
    for part in ("not a medical device", "PHANTOMS", "H-tier", "Gfull", "VERDICT", "next", "route"):
        assert part in printed
    verdicts = ("the hybrid beats each alone", "routing does not pay here")
    assert sum(v in printed for v in verdicts) == 1


def test_its_files_hold_to_their_schema(built: Built) -> None:
    folder = built.home / "evaluation-phantoms"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "docs" / "summary.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(summary, schema)
    assert summary["phantoms"] is True
    assert summary["n_cases"] == len(built.cases.where(role="test"))
    assert summary["novelty"]["auroc_vs_known"] > 0.8
    assert "hantoms" in (folder / "report.html").read_text(encoding="utf-8")


def stored(home: Path) -> dict[str, str]:
    """Digests of all but the stores: closing a database's file drops SQLite's locks on it."""
    files = (p for p in home.rglob("*") if p.is_file() and ".sqlite" not in p.name)
    return {str(p.relative_to(home)): file_digest(p) for p in files}


def test_a_second_run_makes_nothing_again(built: Built) -> None:
    before = stored(built.home)
    started = time.perf_counter()
    result = call(built.home, *DEMO)
    seconds = time.perf_counter() - started
    assert "reused" in result.output
    assert seconds < built.seconds / 2
    assert stored(built.home) == before


def record_of(built: Built, *arguments: str | Path) -> CaseRecord:
    return CaseRecord.model_validate_json(call(built.home, "route", *arguments, "--json").stdout)


def unguarded(built: Built) -> Path:
    path = built.home / "unguarded.yaml"
    path.write_text("policy: {kind: tier, minimum_support: 12, hold_unproven: false}\n")
    return path


def test_who_was_never_shown_to_read_the_like_does_not_answer(built: Built) -> None:
    record = record_of(built, built.one(role="train", tier="rare"))
    assert record.outcome.status == Status.NEEDS_REVIEW
    assert record.outcome.provisional in record.options
    assert "unproven" in {r.code for r in record.outcome.reasons}
    (free,) = [c for c in record.outcome.counterfactuals if c.change.startswith("if a reader")]
    assert free.then == f"it would be answered by {record.outcome.reader}"


@pytest.mark.parametrize("tier", ["common", "rare"])
def test_a_known_case_is_answered(built: Built, tier: str) -> None:
    image = built.one(role="train", tier=tier)
    # with so few phantoms nothing shows who reads them: a person would decide
    record = record_of(built, image, "--policy", unguarded(built))
    assert record.outcome.status == Status.ANSWERED
    assert record.outcome.answer in record.options
    specialist = (record.outcome.reader or "").startswith("specialist-")
    assert specialist == (tier == "common")
    assert record.outcome.reasons
    assert record.neighbours[0].case.startswith("phantom-")
    assert str(image.parent) not in record.model_dump_json()


def test_a_case_unlike_any_goes_to_a_person_with_a_provisional_answer(built: Built) -> None:
    record = record_of(built, built.one(role="test", tier="novel"), "--options", "sinus|other")
    assert record.outcome.status == Status.NEEDS_REVIEW
    assert record.outcome.answer is None
    assert record.outcome.provisional in {"sinus", "other"}
    assert record.familiarity is not None
    assert record.familiarity.p_value <= record.familiarity.alpha


@pytest.mark.parametrize("tier", ["common", "rare"])
def test_a_start_from_nothing_loads_no_library_that_only_training_needs(
    built: Built, tier: str
) -> None:
    """They would double the time until the first decision."""
    code = f"""
import sys
from curbside.cli import app
try:
    app(["route", {str(built.one(role="test", tier=tier))!r}])
except SystemExit as e:
    assert not e.code, e.code
heavy = {{"torch", "peft", "transformers", "sklearn", "pandas", "matplotlib"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CURBSIDE_HOME": str(built.home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "reading " in done.stdout


def test_the_explanation_is_for_people(built: Built) -> None:
    image = built.one(role="test", tier="common")
    text = call(built.home, "route", image, "--policy", unguarded(built)).stdout
    assert "not a medical device" in " ".join(text.split())
    for part in ("ANSWERED", "why", "modality", "seen?", "nearest", "what if", "phantom_"):
        assert part in text


def test_images_that_cannot_be_used(built: Built, tmp_path: Path) -> None:
    whole = built.one(role="test", tier="common").read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[:-2000])
    result = call(built.home, "route", cut)
    assert result.exit_code == 2
    assert "NOT ANALYSED" in result.stdout
    for name, raw in (("empty.png", b""), ("text.png", b"hello")):
        path = tmp_path / name
        path.write_bytes(raw)
        error = fails(built.home, "route", path)
        assert isinstance(error, ImageError)
        assert error.exit_code == 2
        assert name not in str(error)


def test_each_study_of_a_folder_is_routed(built: Built, tmp_path: Path) -> None:
    picture = built.one(role="train", tier="common")
    grey = np.asarray(Image.open(picture).convert("L"))
    for study, number in ((1, 1), (1, 2), (2, 1)):
        raw = as_dicom(grey, study=study, number=number, modality="OT")
        (tmp_path / f"{study}-{number}").write_bytes(raw)
    (tmp_path / "picture.png").write_bytes(picture.read_bytes())
    (tmp_path / "empty.dcm").write_bytes(b"")
    result = call(built.home, "route", tmp_path, "--json")
    assert "1 other files are in no study: 1 empty" in result.stderr
    records = [CaseRecord.model_validate(r) for r in json.loads(result.stdout)]
    assert len(records) == 3
    assert len({r.case for r in records}) == 3
    assert all(r.outcome.status is not Status.NOT_ANALYSED for r in records)
    text = call(built.home, "route", tmp_path / "2-1").stdout
    assert text.count("not a medical device") == 1


def test_a_case_whose_image_is_missing_is_one_failed_case(built: Built, tmp_path: Path) -> None:
    rows = [
        {"image": str(c.image), "label": c.label, "task": c.task, "options": list(c.options)}
        | {"modality": c.modality, "tier": c.tier, "role": "test", "id": c.id}
        for c in built.cases.take(built.cases.where(role="test"))
    ]
    rows[0]["image"] = "gone.png"
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("\n".join(json.dumps(r) for r in rows))
    out = tmp_path / "out"
    result = call(
        built.home, "eval", "run", "--cases", manifest, "--out", out, "--replicates", "100"
    )
    assert result.exit_code == 0, result.output
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["n_cases"] == len(rows)
    assert summary["cases"]["n_failed"] == 1


def test_nothing_built_names_the_next_command(built: Built, tmp_path: Path) -> None:
    image = built.one(role="test", tier="common")
    assert call(tmp_path, "config", "init").exit_code == 0
    error = fails(tmp_path, "route", image)
    assert isinstance(error, NotBuilt)
    assert "curbside build" in error.hint or "make demo" in error.hint


def test_a_damaged_index_is_refused(built: Built, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(built.home, home)
    image = built.one(role="test", tier="common")
    largest = max((home / "index").rglob("*"), key=lambda p: p.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    error = fails(home, "route", image)
    assert isinstance(error, UserError)
    assert error.code == "index-corrupt"
    assert error.hint


@pytest.mark.parametrize(
    "suite",
    [
        "leave-one-modality-out",
        "leave-one-label-out",
        "few-shot",
        "perturbations",
        "tag-noise",
        "vqa",
    ],
)
def test_every_suite_with_a_table_runs(built: Built, tmp_path: Path, suite: str) -> None:
    # few phantoms: the suites that ship ask for more cases and more changes than there are
    small = {
        "leave-one-modality-out": "{kind: leave-one-out, of: modality, minimum: 4, most: 2}",
        "leave-one-label-out": "{kind: leave-one-out, of: label, minimum: 4, most: 2}",
        "few-shot": "{kind: few-shot, shots: [1, all], seeds: 2}",
        "perturbations": "{kind: perturbations, sample: 2}",
        "tag-noise": "{kind: tag-noise, rates: [0, 0.5]}",
        "vqa": "{kind: vqa, most: 6}",
    }[suite]
    own = tmp_path / "own.yaml"
    own.write_text(f"name: own\nabout: small\nrun: {small}\n")
    result = call(built.home, "eval", "run", own, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "out" / "suite.json").read_text(encoding="utf-8"))
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    shares = [v for row in table["rows"] for v in row if isinstance(v, float)]
    assert shares and all(0 <= v <= 1 for v in shares)


def test_a_run_is_compared_gated_and_reported(built: Built, tmp_path: Path) -> None:
    run = built.home / "evaluation-phantoms"
    same = call(built.home, "eval", "compare", f"{run}:E", f"{run}:S", "--replicates", "100")
    assert "VERDICT" in same.output
    gate = call(built.home, "eval", "gate", run, "--baseline", run, "--replicates", "100")
    assert "passed  quality" in gate.output
    assert "passed  probes" in gate.output
    for ending, part in (("html", "Where the numbers come from"), ("md", "## Controls")):
        out = tmp_path / f"r.{ending}"
        assert call(built.home, "eval", "report", run, "--out", out).exit_code == 0
        assert part in out.read_text(encoding="utf-8")
    assert "valid: .html" in str(fails(built.home, "eval", "report", run, "--out", "r.pdf"))
    few = ("eval", "report", run, "--images", "2")
    assert "--cases MANIFEST" in str(fails(built.home, *few).hint)
    assert "not the manifest of this run" in str(
        fails(built.home, *few, "--cases", _other(tmp_path, built.cases))
    )
    out = tmp_path / "images.html"
    shown = call(built.home, *few, "--cases", built.cases.path, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert "mind where it goes" in out.read_text(encoding="utf-8")


def _other(folder: Path, cases: Cases) -> Path:
    path = folder / "other.jsonl"
    row = {"id": "x", "image": str(cases[0].image), "role": "test"}
    path.write_text(json.dumps(row | {"modality": "ct", "label": "a", "options": ["a", "b"]}))
    return path


def test_a_gate_is_asked_about_the_runs_own_policy(built: Built, tmp_path: Path) -> None:
    run = built.home / "evaluation-phantoms"
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: {kind: cascade}\n")
    error = fails(built.home, "eval", "gate", run, "--baseline", run, "--policy", policy)
    assert "another policy" in str(error)
    probes = call(built.home, "eval", "probes", "--policy", policy)
    assert probes.exit_code == 0
    assert "probes hold for policy cascade" in probes.output


def test_readings_made_elsewhere_are_evaluated(built: Built, tmp_path: Path) -> None:
    asked = built.cases.take(built.cases.where(role=["tune", "test"]))
    lines = ["case,agent,answer,confidence"]
    for i, c in enumerate(asked):
        for agent, sure in (("vlm", 0.7), ("net", 0.9)):
            answer = c.label if i % 3 else (c.options[0] if c.options else "")
            lines.append(f"{c.id},{agent},{answer},{sure}")
    readings, team = tmp_path / "readings.csv", tmp_path / "team.yaml"
    readings.write_text("\n".join(lines))
    team.write_text("generalist: vlm\nspecialists: {cxr: net}\n")
    result = call(
        built.home, "eval", "run", "--cases", built.cases.path, "--readings", readings,
        "--team", team, "--out", tmp_path / "out", "--replicates", "100",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["arms"]["Gfull"]["about"] == "vlm, as recorded in readings.csv"
    by = {c["name"]: c["finding"] for c in summary["controls"]}
    assert by["blank_image"] == "not assessable"
    assert "go together" in str(
        fails(built.home, "eval", "run", "--cases", readings, "--readings", readings,
              "--out", tmp_path / "o")
    )  # fmt: skip
