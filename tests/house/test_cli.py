"""The command line answers at once, loads no model library for it, and its reference is true."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "faiss", "langgraph", "streamlit", "transformers", "sklearn", "onnxruntime")


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_answers_within_four_tenths_of_a_second_of_processor_time() -> None:
    """By the processor's clock: the wall's says how busy the machine is with other work."""
    command = Path(sys.executable).with_name("curbside")
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert "not a medical device" in " ".join(done.stdout.split())
    assert min(times) < 0.4


def test_importing_the_command_line_loads_no_model_library() -> None:
    code = "import sys, curbside.cli, curbside; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "name", ["cli.md", "curbside.schema.json", "fleet.schema.json", "summary.schema.json"]
)
def test_generated_documents_are_up_to_date(name: str) -> None:
    made = _generator().GENERATED[name]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run: make docs"


def test_an_error_of_the_user_prints_no_traceback_and_exits_with_two(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("curbside")
    file = tmp_path / "curbside.yaml"
    file.write_text("encoder:\n  batchsize: 3\n")
    done = subprocess.run(
        [command, "config", "check", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "line 2" in done.stderr and "batchsize" in done.stderr and "batch_size" in done.stderr


def test_the_schema_accepts_the_default_configuration() -> None:
    import jsonschema

    from curbside.config import Config

    schema = json.loads((ROOT / "docs" / "curbside.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(Config().model_dump(mode="json"), schema)
