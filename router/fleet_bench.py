"""How many studies a second the whole of it reads: files, encoder, routing, agents, ledger.

Runs on what is built in a home and with its fleet, wherever those run: on processors, on one
GPU that encoder and agents share, or on servers.  Ledger and waiting cases go to a temporary
folder, and no features are taken from the home's cache.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curbside.agents.finetuning.export import machine
from curbside.agents.fleet_spec import (
    EncoderSpec,
    EndpointAgentSpec,
    FleetSpec,
    PluginSpec,
    SmallVlmSpec,
    TransformersSpec,
)
from curbside.config import Config
from curbside.errors import UserError
from curbside.indexes.encoder import load_encoder
from curbside.indexes.features import FeatureSource
from curbside.indexes.pretrained import SentenceTransformersEncoder
from curbside.readings import CaseRecord, Failure, Reading
from curbside.router.api import Router
from curbside.router.batch_bench import own_stores
from curbside.router.workspace import Workspace
from curbside.study import Study

__all__ = ["FleetBench", "bench_fleet"]


@dataclass(frozen=True)
class FleetBench:
    """Results.

    Args:
        machine: in words: its GPUs where torch sees any, else its processors.
        encoder, agents: where they run; agents by name, those that were asked.
        studies: read in ``seconds``, each once; ``rate`` of them a second.
        encoder_rate: images a second of the encoder alone, from the same files.
        alone_p50, alone_p95: ms of a study read by itself, files to ledger; None where none was.
        status: outcomes; answered_by: readers of the answers.
        readings: readings by agent; failures: calls that failed, by agent, also of those alone.
        gpu_mib: greatest memory of the GPU that torch took in this process; None without one.
    """

    machine: str
    encoder: str
    agents: dict[str, str]
    studies: int
    seconds: float
    encoder_rate: float
    status: dict[str, int]
    answered_by: dict[str, int]
    readings: dict[str, int]
    failures: dict[str, int]
    gpu_mib: float | None
    alone_p50: float | None = None
    alone_p95: float | None = None

    @property
    def rate(self) -> float:
        """Studies a second."""
        return self.studies / self.seconds

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, with the rate."""
        return {**asdict(self), "rate": self.rate}


class _Uncached(Workspace):
    """A workspace that encodes every image anew."""

    @cached_property
    def source(self) -> FeatureSource:
        return FeatureSource(load_encoder(self.config.encoder, self.cache_folder))


def bench_fleet(
    home: Path, config: Config, *, studies: int, warm: int = 16, alone: int = 0
) -> FleetBench:
    """Read the built cases' images through the whole router and its fleet.

    Args:
        studies: measured, each read once.
        warm: read before, unmeasured: models are loaded and connections opened by them.
        alone: further ones, read one by one afterwards; fewer where no more are there.

    Raises:
        NotBuilt: nothing was built; UserError: there are too few of its images.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace = _Uncached(home, own_stores(config, Path(folder)))
        some = _studies(workspace, warm + studies + alone)
        if len(some) <= warm:
            raise UserError(
                f"{len(some)} images of the built cases are there; more than {warm} are needed",
                hint="curbside build --cases MANIFEST",
            )
        with closing(Router(workspace)) as router:
            router.read_batch(some[:warm])
            _reset_gpu()
            start = time.perf_counter()
            records = router.read_batch(some[warm : warm + studies])
            seconds = time.perf_counter() - start
            singly = [_timed(router, study) for study in some[warm + studies :]]
        encoder = workspace.source.encoder
        start = time.perf_counter()
        FeatureSource(encoder).of(some[warm : warm + studies])
        encoding = time.perf_counter() - start
    responses = [r for record in records for r in record.responses]
    every = responses + [r for record, _ in singly for r in record.responses]
    took = [ms for _, ms in singly]
    asked = dict.fromkeys(r.agent for r in every)
    # the others run through ONNX Runtime, on processors
    on = encoder.device if isinstance(encoder, SentenceTransformersEncoder) else "cpu"
    return FleetBench(
        machine=machine(),
        encoder=f"{config.encoder.kind}, {on}",
        agents={name: _where(workspace.fleet_spec, name) for name in asked},
        studies=len(records),
        seconds=seconds,
        encoder_rate=len(records) / encoding,
        status=dict(Counter(str(r.outcome.status) for r in records)),
        answered_by=dict(Counter(r.outcome.reader for r in records if r.outcome.reader)),
        readings=dict(Counter(r.agent for r in responses if isinstance(r, Reading))),
        failures=dict(Counter(r.agent for r in every if isinstance(r, Failure))),
        gpu_mib=_gpu_mib(),
        alone_p50=float(np.percentile(took, 50)) if took else None,
        alone_p95=float(np.percentile(took, 95)) if took else None,
    )


def _timed(router: Router, study: Study) -> tuple[CaseRecord, float]:
    """Its record, and the ms until it was there."""
    start = time.perf_counter()
    record = router.read(study)
    return record, 1000 * (time.perf_counter() - start)


def _studies(workspace: Workspace, most: int) -> Sequence[Study]:
    """Some of the built cases, in an order drawn by lot: a manifest often goes by modality."""
    there = [c for c in workspace.built_cases() if c.image.is_file()]
    order = np.random.default_rng(0).permutation(len(there))[:most]
    return [there[i].study() for i in order]


def _where(spec: FleetSpec, name: str) -> str:
    """Kind of an agent and where it computes."""
    agent = spec.agents.get(name)
    if isinstance(agent, TransformersSpec):
        return f"transformers, {agent.device}, {agent.dtype}"
    if isinstance(agent, EndpointAgentSpec):
        return f"openai, {spec.endpoints[agent.endpoint].url}"
    if isinstance(agent, SmallVlmSpec | EncoderSpec):
        from curbside.agents.device import torch_device

        return f"{agent.kind}, {torch_device()}"
    if isinstance(agent, PluginSpec):
        return f"plugin {agent.use}"
    return "embedded, cpu"


def _reset_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _gpu_mib() -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
