"""A small planted world: two modalities with specialists, a third without, and fake agents."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.cases import Case, Cases
from curbside.config import Config, IndexConfig, ProjectionConfig, TierPolicy
from curbside.indexes.assess import Assessor
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import FeatureSource
from curbside.readings import CaseRecord
from curbside.router.api import Router
from curbside.study import Study

TASKS = {"bones": ("intact", "broken"), "lungs": ("clear", "shadow"), "skin": ("mole", "rash")}
MODALITY = {"bones": "xray", "lungs": "ct", "skin": "photo"}
_COLOUR = {"xray": (200, 200, 200), "ct": (20, 90, 30), "photo": (220, 60, 90)}


def picture(modality: str, label: int, seed: int) -> bytes:
    """PNG bytes that look like others of the same modality and label."""
    rng = np.random.default_rng([seed, label, len(modality)])
    image = np.full((16, 16, 3), _COLOUR[modality], float)
    image[4:12, 4 + 4 * label : 8 + 4 * label] *= 0.4
    image += rng.normal(0, 30, image.shape)  # or cases would be copies of each other
    out = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def strange(seed: int = 0) -> bytes:
    """PNG bytes of noise, unlike anything indexed."""
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@dataclass
class World:
    """What a router needs, made of fakes."""

    config: Config
    source: FeatureSource
    assessor: Assessor
    agents: dict[str, FakeAgent]
    asked: list[str]

    def router(self, home: Path, policy: Any = None) -> Router:
        """A router over this world with its stores under ``home``."""
        return Router(self.workspace(home, self.config), policy=policy)

    def workspace(self, home: Path, config: Config) -> Any:
        """What a router is opened over."""
        specialists = {"xray": "specialist-xray", "ct": "specialist-ct"}
        fleet = SimpleNamespace(
            agents=self.agents,
            serving=(*specialists.values(), "generalist"),
            generalist="generalist",
            specialists=specialists,
            tasks=TASKS,
            tasks_of={m: (t,) for t, m in MODALITY.items()},
            fingerprint="fleet",
        )
        bound = self.assessor.bind(fleet.serving, specialists)
        workspace: Any = SimpleNamespace(
            home=home,
            config=config,
            source=self.source,
            fleet=lambda: fleet,
            assessor=lambda: bound,
        )
        return workspace


def make_world(answers: dict[str, Callable[[Any], Any]]) -> World:
    """A world in which agents answer the first option, unless ``answers`` says otherwise."""
    folder = Path("memory")
    cases, studies = [], []
    for role, n in (("train", 14), ("calibration", 25)):
        for task, options in TASKS.items():
            for label, name in enumerate(options):
                for i in range(n if task != "skin" or role == "train" else 4):
                    case = Case(
                        id=f"{role}-{task}-{name}-{i}",
                        image=folder,
                        modality=MODALITY[task],
                        label=name,
                        task=task,
                        options=options,
                        role=role,
                        group=f"{role}-{task}-{name}-{i}",
                    )
                    cases.append(case)
                    seed = i + (1000 if role == "train" else 0)
                    studies.append((case.id, picture(MODALITY[task], label, seed)))
    source = FeatureSource(FakeEncoder(dimensions=24))
    features = source.of([Study.from_image(raw, id=i) for i, raw in studies])
    config = Config(
        policy=TierPolicy(minimum_support=20),
        index=IndexConfig(neighbours=5, stratum_minimum=20),
    )
    config = config.model_copy(
        update={
            "encoder": config.encoder.model_copy(
                update={"projection": ProjectionConfig(dimensions=8)}
            )
        }
    )
    assessor = Assessor.fit(Cases(cases, folder), features, config)
    asked: list[str] = []

    def agent(name: str, role: str) -> FakeAgent:
        def answer(question: Any) -> Any:
            asked.append(name)
            if name in answers:
                return answers[name](question)
            k = len(question.options)
            return [0.8, *[0.2 / (k - 1)] * (k - 1)]

        return FakeAgent(
            AgentCard(name=name, kind="fake", role=role, fingerprint=f"{name}-1"), answer
        )

    agents = {
        "specialist-xray": agent("specialist-xray", "specialist"),
        "specialist-ct": agent("specialist-ct", "specialist"),
        "generalist": agent("generalist", "generalist"),
    }
    return World(config, source, assessor, agents, asked)


def plain(record: CaseRecord) -> Any:
    """A record without clocks."""
    body = record.to_json()
    for name in ("received_at", "decided_at"):
        body.pop(name)
    for response in body["responses"]:
        response.pop("latency_ms", None)
    return body
