"""A batch over the planted world that another process can run and be killed in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def write_manifest(folder: Path, n: int) -> Path:
    """n cases, asked in turn of six pictures; every seventh is broken, every ninth is strange."""
    from tests_router_world import MODALITY, TASKS, picture, strange

    images = folder / "pictures"
    images.mkdir(exist_ok=True)
    tasks = list(TASKS)
    for t, task in enumerate(tasks):
        for label in range(2):
            (images / f"{t}{label}.png").write_bytes(picture(MODALITY[task], label, 5000))
    (images / "strange.png").write_bytes(strange())
    (images / "cut.png").write_bytes(picture("ct", 0, 5000)[:200])
    lines = ["id,image,task,options"]
    rng = np.random.default_rng(0)
    for i in range(n):
        task = tasks[int(rng.integers(len(tasks)))]
        name = f"{tasks.index(task)}{i % 2}.png"
        name = "cut.png" if i % 7 == 3 else "strange.png" if i % 9 == 5 else name
        lines.append(f"case-{i:04d},pictures/{name},{task},{'|'.join(TASKS[task])}")
    path = folder / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def drive(manifest: str, home: str, out: str) -> None:
    """Run the batch in this process, in small blocks and parts."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tests_router_world import make_world

    from curbside.router import flow
    from curbside.router.batch import incoming, run_batch
    from curbside.study import Question

    flow.BLOCK = 8
    router = make_world({}).router(Path(home))
    (Path(home) / "started").touch()
    run_batch(router, incoming(Path(manifest), Question(), ()), Path(out), rows=32)
    router.close()
