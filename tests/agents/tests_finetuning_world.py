"""A manifest whose pictures can be told apart by brightness, with questions of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_models import save_idefics3, save_llava

Row = dict[str, Any]
OPTIONS = ["ill", "well"]
#: An item of the report template that ships.
ITEM = "Is there a pleural effusion?"


def rows(n: int = 24, *, role: str = "train", start: int = 0) -> list[Row]:
    """Two images a patient; every third is also asked openly, every fourth has a report."""
    made: list[Row] = []
    for i in range(start, start + n):
        label = OPTIONS[i % 2]
        own = {"image": f"{i}.png", "role": role, "group": f"{role}-{i // 4}", "modality": "photo"}
        made.append({**own, "id": f"c{i}", "task": "shade", "label": label, "options": OPTIONS})
        if i % 3 == 0:
            asked = {"id": f"o{i}", "question": "What is it?", "answer": label, "kind": "vqa_open"}
            made.append({**own, **asked})
        if i % 4 < 2:
            made.append({**own, "id": f"r{i}", "kind": "report", ITEM: ["yes", "no"][i % 2]})
    return made


def write(folder: Path, made: list[Row], change: Callable[[Row], Row] = lambda r: r) -> Path:
    """The manifest with its pictures: "ill" is bright, "well" is dark, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in made:
        i = int(row["image"].split(".")[0])
        noise = np.random.default_rng(i).integers(0, 60, (48, 48, 3))
        shade = (noise + (180 if i % 2 == 0 else 10)).astype(np.uint8)
        Image.fromarray(shade).save(folder / row["image"])
    path = folder / "cases.jsonl"
    path.write_text("\n".join(json.dumps(change(r)) for r in made) + "\n", encoding="utf-8")
    return path


def vlm_world(folder: Path) -> Path:
    """Tiny LLaVA and Idefics3 checkpoints beside training and tune cases."""
    save_llava(folder / "llava")
    save_idefics3(folder / "idefics3")
    write(folder / "cases", [*rows(48), *rows(24, role="tune", start=100)])
    return folder
