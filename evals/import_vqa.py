"""Published sets of questions about images: VQA-RAD and VQA-Med 2019."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from curbside.evals.import_form import IMAGES, Row, Wanted, divided, not_found, opaque, relative

__all__ = ["vqa_med", "vqa_rad"]


def vqa_rad(w: Wanted) -> Iterator[Row]:
    """``VQA_RAD Dataset Public.json`` beside ``VQA_RAD Image Folder`` (Lau et al., 2018).

    Also a table ``qa.jsonl`` with the same keys.  The published split shares images between
    train and test: train questions on test images get no role, so that the rest is disjoint.
    """
    folder = w.path if w.path.is_dir() else w.path.parent
    table = folder / "qa.jsonl"
    if table.is_file():
        found = [json.loads(line) for line in table.read_text("utf-8").splitlines() if line]
    else:
        files = sorted(folder.glob("VQA_RAD*Public*.json")) if w.path.is_dir() else [w.path]
        if not files:
            raise not_found(w, "VQA_RAD Dataset Public.json")
        found = json.loads(files[0].read_text("utf-8-sig"))
    base = folder / "VQA_RAD Image Folder"
    base = base if base.is_dir() else folder
    rows = []
    for i, q in enumerate(found):
        image = q.get("image") or q["image_name"]
        split = q.get("split") or ("test" if q["phrase_type"].startswith("test") else "train")
        organ = (q.get("organ") or q.get("image_organ") or "").lower()
        rows.append((i, q, str(base / image), split, organ))
    held = {image for _, _, image, split, _ in rows if split == "test"}
    for i, q, image, split, organ in rows:
        shared = split == "train" and image in held
        answer = str(q["answer"]).strip()
        yield {
            "id": f"vqa-rad-{i}",
            "image": relative(image, w),
            "role": "" if shared else "test" if split == "test" else divided(image),
            "group": opaque(image),
            **_question(str(q["question"]), answer, f"vqa_rad_{organ or 'other'}"),
            "modality": w.modality or f"vqa_rad_{organ or 'other'}",
            "split": split,
            "shared_image": "yes" if shared else "no",
            "answer": answer,
            "question_type": str(q.get("question_type") or "").strip(),
        }


def vqa_med(w: Wanted) -> Iterator[Row]:
    """ImageCLEF VQA-Med 2019: ``All_QA_Pairs_train.txt`` and the like (Ben Abacha et al.).

    Lines ``image|question|answer``, in the test file ``image|category|question|answer``.  Also
    a table ``qa.jsonl``.
    """
    folder = w.path if w.path.is_dir() else w.path.parent
    found: list[tuple[str, str, str, str, str]] = []
    table = folder / "qa.jsonl"
    if table.is_file():
        for line in table.read_text("utf-8").splitlines():
            q = json.loads(line)
            kind = str(q.get("question_type", ""))
            found.append((str(folder / q["image"]), q["split"], q["question"], q["answer"], kind))
    else:
        for file in sorted(folder.rglob("*.txt")):
            split = next((s for s in ("train", "val", "test") if s in file.name.lower()), "")
            pairs = file.name.startswith("All_QA_Pairs") or "Questions_w_Ref_Answers" in file.name
            if split and pairs:
                found += _vqa_med_lines(file, split)
    if not found:
        raise not_found(w, "All_QA_Pairs_train.txt")
    for i, (image, split, question, answer, kind) in enumerate(found):
        role = "test" if split == "test" else "tune" if split == "val" else divided(image)
        yield {
            "id": f"vqa-med-{i}",
            "image": relative(image, w),
            "role": role,
            "group": opaque(image),
            **_question(question, answer, "vqa_med_2019"),
            "modality": w.modality or "vqa_med_2019",
            "answer": answer,
            "question_type": kind,
        }


def _vqa_med_lines(file: Path, split: str) -> Iterator[tuple[str, str, str, str, str]]:
    images = {p.stem: p for p in file.parent.rglob("*") if p.suffix.lower() in IMAGES}
    for line in file.read_text("utf-8").splitlines():
        parts = [p.strip() for p in line.split("|")]
        if len(parts) < 3:
            continue
        image, question, answer = parts[0], parts[-2], parts[-1]
        kind = parts[1] if len(parts) > 3 else ""
        path = images.get(image, file.parent / f"{image}.jpg")
        yield str(path), split, question, answer, kind


def _question(question: str, answer: str, task: str) -> Row:
    """A question as a manifest has it: closed where the answer is yes or no, else open."""
    if answer.lower() in ("yes", "no"):
        return {
            "task": f"{task}_closed",
            "question": question,
            "options": ["yes", "no"],
            "label": answer.lower(),
        }
    return {"question": question}
