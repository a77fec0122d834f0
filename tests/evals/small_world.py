"""Drawn images with two modalities and two labels, and questions about some of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from curbside.agents.small_vlm.model import Plan
from curbside.cases import Cases, read_cases

#: For the real encoder's map and a tiny language model.
REAL_EYES = Plan(entry=1, hidden=16, rank=4)


def write_world(folder: Path) -> tuple[Cases, Cases]:
    rng = np.random.default_rng(0)
    rows, asked = [], []
    roles = ["train"] * 6 + ["tune"] * 2 + ["test"] * 4
    for i in range(48):
        modality, label = ("clear", "shadow")[i % 2], ("benign", "malignant")[i // 2 % 2]
        pixels = rng.integers(0, 60, (40, 40, 3), np.uint8)
        pixels[:, :, i % 2] += 120
        pixels[:20] += 60 * (i // 2 % 2)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        common = {"id": f"c{i}", "image": f"{i}.png", "modality": modality, "group": f"g{i}"}
        rows.append({
            **common, "label": label, "task": f"{modality}_kind",
            "tier": "common" if i % 2 else "rare",
            "options": ["benign", "malignant"], "role": roles[i // 4],
        })  # fmt: skip
        if i % 4 == 0:
            split = "test" if i > 32 else "train"
            closed = {"options": ["yes", "no"], "label": "yes", "task": "vqa"} if i % 8 else {}
            asked.append({
                "id": f"q{i}", "image": f"{i}.png", "group": f"g{i}", "split": split,
                "question": "Is it clear?" if closed else "What is it?",
                "answer": "yes" if closed else "shadow", "shared_image": "no", **closed,
            })  # fmt: skip
    out = []
    for name, table in (("cases", rows), ("asked", asked)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in table), encoding="utf-8")
        out.append(read_cases(path))
    return out[0], out[1]
