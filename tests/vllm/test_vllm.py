"""A real vLLM on this machine's CPU: conformance, equality with transformers, a routed batch.

Run by ``make test-vllm``, which makes ``.venv-vllm`` first; no part of ``make test``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from real_vllm import MARKS
from tests_finetuning_world import rows, write
from tests_router_world import TASKS, make_world, picture
from tiny_models import save_adapter, save_idefics3, save_llava

from curbside.agents.conformance import CHECKS, Subject
from curbside.agents.endpoint import together
from curbside.agents.endpoint_agent import EndpointEngine, open_endpoint_agent
from curbside.agents.finetuning.export import for_vllm
from curbside.agents.finetuning.material import material_of
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.vlm import VlmBase, finetune_vlm
from curbside.agents.fleet_spec import (
    CardSpec,
    Decoding,
    EndpointAgentSpec,
    EndpointSpec,
    Limits,
    Patience,
    TransformersSpec,
)
from curbside.agents.injections import picture as drawn
from curbside.agents.injections import study_of
from curbside.agents.pictures import png
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.transformers_agent import open_transformers_agent
from curbside.agents.vision import Ask, Said, VisionAgent
from curbside.cases import read_cases
from curbside.readings import Reading, Status
from curbside.study import Question, QuestionKind, Study

pytestmark = MARKS
HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".venv-vllm" / "bin" / "python"
ASKED = Question(options=("benign", "malignant", "normal"))
LIMITS = Limits(images=2, greatest_side=56, text=120)
#: A random model ends its JSON where the schema's lengths do: some 1,000 characters.
DECODING = Decoding(constrain="choice", max_tokens=2048)
START_SECONDS = 600


@dataclass(frozen=True)
class Served:
    """A running server, the folder of what it serves, and the name of the base model."""

    url: str
    folder: Path
    base: str


def tuned(base: Path, name: str, folder: Path) -> Path:
    """An adapter as ``curbside finetune`` makes it: closed, open and report questions."""
    manifest = write(folder / "cases", rows(24))
    report = load_report("chest-1")
    material = material_of(read_cases(manifest), held_out=0.0, report=report)
    source = VlmBase(name, name, base, load_prompt("plain-1"), LIMITS)
    recipe = Recipe(epochs=2, rate=3e-2, held_out=0.0)
    card, _ = finetune_vlm(source, material, recipe, folder / "tuned")
    assert card.vllm == ""
    return folder / "tuned"


@contextmanager
def serving(model: Path, name: str, adapters: dict[str, Path], log: Path) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "4096", "--enforce-eager",
        "--limit-mm-per-prompt", '{"image": 2}', "--allowed-media-domains", "media.invalid",
        "--max-logprobs", "20",
        # a random model would fill its JSON with white space
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    if adapters:
        command += ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "3", "--lora-modules"]
        command += [f"{n}={p}" for n, p in adapters.items()]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {
        "PYTHONPATH": str(HERE / "site"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        if process.poll() is not None:
            pytest.fail(f"vLLM ended: {log.read_text(errors='replace')[-3000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(2)
        else:
            print(f"vLLM answered after {time.monotonic() - started:.0f} s")
            return
    pytest.fail(f"no vLLM after {START_SECONDS} s")


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    import pytest_socket

    pytest_socket.enable_socket()
    folder = tmp_path_factory.mktemp(request.param)
    name = str(request.param)
    base = {"llava": save_llava, "idefics3": save_idefics3}[name](folder / name)
    model = for_vllm(base, folder / "vllm") if name == "llava" else base
    adapters = {n: save_adapter(base, folder / n, seed=i) for i, n in enumerate(("a", "b"), 1)}
    adapters["tuned"] = tuned(base, name, folder)
    with serving(model, name, adapters, folder / "vllm.log") as url:
        yield Served(url, folder, name)


def card(
    role: Literal["specialist", "generalist"] = "generalist", modalities: tuple[str, ...] = ()
) -> CardSpec:
    return CardSpec(role=role, modalities=modalities, questions=tuple(QuestionKind))


def remote(served: Served, adapter: str = "", name: str = "remote", **spec: Any) -> VisionAgent:
    patience = Patience(attempt_seconds=120, total_seconds=240, concurrency=8)
    return open_endpoint_agent(
        name,
        EndpointAgentSpec(
            kind="openai", endpoint="e", base=served.base, adapter=adapter,
            limits=LIMITS, **{"card": card(), "decoding": DECODING} | spec,
        ),
        EndpointSpec(url=served.url, patience=patience),
    )  # fmt: skip


def local(served: Served, adapter: str = "") -> VisionAgent:
    spec = TransformersSpec(
        kind="transformers", base=served.base, adapter=adapter, card=card(),
        decoding=DECODING, limits=LIMITS,
    )  # fmt: skip
    return open_transformers_agent("local", spec, served.folder)


@pytest.mark.parametrize("adapter", ["", "a", "b"])
@pytest.mark.parametrize("constrain", ["choice", "json_schema"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_conforms(
    check: Callable[[Subject], None], served: Served, adapter: str, constrain: Any
) -> None:
    decoding = DECODING.model_copy(update={"constrain": constrain})
    check(Subject(remote(served, adapter, decoding=decoding), ASKED, tolerance=1e-3))


def probabilities(agent: VisionAgent, studies: list[Study]) -> np.ndarray:
    rows = []
    for reading in agent.read_batch(studies):
        assert isinstance(reading, Reading), reading
        rows.append(reading.probabilities)
    return np.array(rows)


def test_answers_equal_those_of_transformers_in_process(served: Served) -> None:
    studies = [study_of(drawn(i), question=ASKED, id=str(i)) for i in range(8)]
    seen = {}
    for adapter in ("", "a", "b", "tuned"):
        there = probabilities(remote(served, adapter), studies)
        here = probabilities(local(served, adapter), studies)
        most = float(np.abs(there - here).max())
        print(f"{served.base} {adapter or 'base'}: greatest difference {most:.2g}")
        np.testing.assert_allclose(there, here, atol=1e-3)
        top = np.sort(here, axis=1)
        clear = top[:, -1] - top[:, -2] > 2e-3
        assert clear.any()
        assert (there.argmax(1) == here.argmax(1))[clear].all()
        seen[adapter] = there
    assert np.abs(seen["a"] - seen[""]).max() > 1e-3
    assert np.abs(seen["a"] - seen["b"]).max() > 1e-3
    assert np.abs(seen["tuned"] - seen[""]).max() > 1e-3


def test_words_equal_those_of_transformers_in_process(served: Served) -> None:
    """Greedy, and free of any form, since the model in this process is held to none."""
    for adapter in ("", "a", "b", "tuned"):
        there, here = remote(served, adapter), local(served, adapter)
        assert isinstance(there.engine, EndpointEngine)
        for i in range(4):
            ask = Ask("Read.", f"What is to be seen in picture {i}?", (png(drawn(i), LIMITS),),
                      max_tokens=24)  # fmt: skip
            body = there.engine.body(ask)
            del body["response_format"]
            (found,) = together([there.engine.endpoint.call("/chat/completions", body)])
            (said,) = here.engine.say([ask])
            assert isinstance(said, Said), said
            told = [found["choices"][0]["message"]["content"], json.loads(said.text)["answer"]]
            # vLLM holds back the bytes of a last character that is not whole
            there_said, here_said = (t.rstrip("\ufffd").strip() for t in told)
            assert there_said == here_said


def test_a_batch_of_fifty_studies_is_routed_through_the_real_server(
    served: Served, tmp_path: Path
) -> None:
    world = make_world({})
    agents = {
        "specialist-xray": remote(
            served, "a", "specialist-xray", card=card("specialist", ("xray",))
        ),
        "specialist-ct": remote(served, "b", "specialist-ct", card=card("specialist", ("ct",))),
        "generalist": remote(served, "", "generalist"),
    }
    world.agents.update(agents)  # type: ignore[arg-type]  # in the place of fakes
    kinds = [("xray", "bones"), ("ct", "lungs"), ("photo", "skin")]
    studies = []
    for i in range(50):
        modality, task = kinds[i % 3]
        question = Question(options=TASKS[task], task=task)
        raw = picture(modality, i % 2, 5000 + i)
        studies.append(Study.from_image(raw, question=question, id=f"case-{i}"))
    started = time.monotonic()
    records = world.router(tmp_path).read_batch(studies)
    print(f"{served.base}: 50 studies in {time.monotonic() - started:.1f} s")
    assert [r.case for r in records] == [s.id for s in studies]
    ended = Counter(r.outcome.status for r in records)
    assert ended[Status.ANSWERED] + ended[Status.NEEDS_REVIEW] == 50
    readers = Counter(r.outcome.reader for r in records if r.outcome.status is Status.ANSWERED)
    assert set(readers) == set(agents)
    for record in records:
        assert all(
            isinstance(r, Reading) and r.server.startswith("vllm ") for r in record.responses
        )
