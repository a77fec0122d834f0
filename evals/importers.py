"""Published data sets as manifests: files of exactly the form in which they are given out.

Each importer turns a folder or file into rows of one manifest (JSONL) and, where images lie
inside an archive, writes them as PNG beside it.  Nothing is downloaded.  Roles follow the
published split; where one split must serve two roles, it is divided by group.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curbside.cases import Cases, read_cases
from curbside.errors import CasesError, UserError
from curbside.storage import new_file, write_text
from curbside.study import content_hash

__all__ = ["KINDS", "import_cases"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
#: Shares of groups by role where a set comes without a split.
_SHARES = (("train", 0.6), ("tune", 0.7), ("calibration", 0.85), ("test", 1.0))
_ROLE_OF = {
    "train": "train",
    "training": "train",
    "val": "tune",
    "valid": "tune",
    "validation": "tune",
    "dev": "tune",
    "tune": "tune",
    "calibration": "calibration",
    "test": "test",
    "testing": "test",
}
#: Columns that mean the same in tables of images, in the order in which they are looked for.
_SAME = {
    "image": ("image", "image_path", "filename", "file_name", "file", "path", "image_id"),
    "label": ("label", "class", "diagnosis", "dx", "finding", "target"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id", "study_id"),
    "split": ("role", "split", "set", "fold", "subset"),
    "modality": ("modality",),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What the user says of a set that does not say it itself."""

    path: Path
    out: Path
    modality: str
    task: str
    labels: tuple[str, ...] = ()

    @property
    def images(self) -> Path:
        """Where images are written that lie in an archive."""
        return self.out.parent / f"{self.out.stem}-images"


def import_cases(
    kind: str,
    path: Path,
    out: Path,
    *,
    modality: str = "",
    task: str = "",
    labels: tuple[str, ...] = (),
) -> Cases:
    """Write a manifest of a published set.

    Args:
        kind: one of ``KINDS``.
        out: the manifest, ending in ``.jsonl``.
        modality, task: for sets that name none; the task defaults to the file's name.
        labels: names of the classes 0, 1, … of sets that only number them.

    Raises:
        UserError: unknown kind, or the path is no such set; says what was looked for.
        CasesError: what was found makes no valid manifest.
        StorageError: the manifest or an image cannot be written.
    """
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; valid: {', '.join(KINDS)}")
    if out.suffix != ".jsonl":
        raise UserError(f"{out.name} must end in .jsonl", hint="--out cases.jsonl")
    if not path.exists():
        raise UserError(f"{path} does not exist", hint="give the folder or file of the set")
    wanted = Wanted(path, out, modality, task or path.stem.lower(), labels)
    rows = [{k: v for k, v in r.items() if v not in ("", None, [])} for r in KINDS[kind](wanted)]
    if not rows:
        raise CasesError(f"{path} holds no case of kind {kind}", hint="docs/cases.md")
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    write_text(out, text)
    return read_cases(out)


# -- visual question answering -----------------------------------------------------------------


def _vqa_rad(w: Wanted) -> Iterator[Row]:
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
            raise _not_found(w, "VQA_RAD Dataset Public.json")
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
            "image": _relative(image, w),
            "role": "" if shared else "test" if split == "test" else _divided(image),
            "group": _opaque(image),
            **_question(str(q["question"]), answer, f"vqa_rad_{organ or 'other'}"),
            "modality": w.modality or f"vqa_rad_{organ or 'other'}",
            "split": split,
            "shared_image": "yes" if shared else "no",
            "answer": answer,
            "question_type": str(q.get("question_type") or "").strip(),
        }


def _vqa_med(w: Wanted) -> Iterator[Row]:
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
        raise _not_found(w, "All_QA_Pairs_train.txt")
    for i, (image, split, question, answer, kind) in enumerate(found):
        role = "test" if split == "test" else "tune" if split == "val" else _divided(image)
        yield {
            "id": f"vqa-med-{i}",
            "image": _relative(image, w),
            "role": role,
            "group": _opaque(image),
            **_question(question, answer, "vqa_med_2019"),
            "modality": w.modality or "vqa_med_2019",
            "answer": answer,
            "question_type": kind,
        }


def _vqa_med_lines(file: Path, split: str) -> Iterator[tuple[str, str, str, str, str]]:
    images = {p.stem: p for p in file.parent.rglob("*") if p.suffix.lower() in _IMAGES}
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


# -- diagnosis -----------------------------------------------------------------------------------


def _medmnist(w: Wanted) -> Iterator[Row]:
    """A MedMNIST ``.npz``: ``{train,val,test}_{images,labels}`` (Yang et al., 2023).

    One in four of the training images calibrates; they come without patients.
    """
    files = sorted(w.path.glob("*.npz")) if w.path.is_dir() else [w.path]
    if not files:
        raise _not_found(w, "a .npz file")
    for file in files:
        with np.load(file, allow_pickle=False) as data:
            if "train_images" not in data:
                raise _not_found(w, "arrays train_images, train_labels, …")
            splits = [s for s in ("train", "val", "test") if f"{s}_images" in data]
            n = 1 + max(int(data[f"{s}_labels"].max()) for s in splits)
            if data["train_labels"].shape[1] != 1:
                raise UserError(f"{file.name} has several labels an image, which no task here has")
            if (shape := data["train_images"].shape)[3:] not in ((), (3,)):
                raise UserError(
                    f"{file.name} holds volumes of {' × '.join(map(str, shape[1:]))}; valid: grey "
                    "or colour images"
                )
            names = [*w.labels, *(f"class_{i}" for i in range(len(w.labels), n))][:n]
            for split in splits:
                labels = data[f"{split}_labels"][:, 0]
                for i, pixels in enumerate(data[f"{split}_images"]):
                    name = f"{file.stem}-{split}-{i:05d}"
                    role = _ROLE_OF[split]
                    if role == "train" and i % 4 == 3:
                        role = "calibration"
                    yield {
                        "id": name,
                        "image": _relative(_write_png(pixels, name, w), w),
                        "role": role,
                        "modality": w.modality or file.stem,
                        "task": file.stem,
                        "label": names[int(labels[i])],
                        "options": names,
                    }


def _folder(w: Wanted) -> Iterator[Row]:
    """A folder of images with a CSV, or with one subfolder a class.

    Columns are recognised by their usual names (image or filename, label or dx, patient_id,
    split …); patients become opaque groups.  Also a table a split: ``train.csv``, or
    ``train/metadata.csv`` beside its images, as the ``imagefolder`` of Hugging Face has it.
    """
    tables = _tables(w)
    found = [r for t in tables for r in _from_table(t, w)] if tables else list(_from_subfolders(w))
    options = sorted({r["label"] for r in found if r["label"]})
    for r in found:
        if len(options) >= 2:
            r |= {"task": w.task, "options": options}
        else:
            r["label"] = ""
        yield r


def _tables(w: Wanted) -> list[Path]:
    """The tables that list images: one, or one a split; a folder's own before its subfolders'."""
    if not w.path.is_dir():
        return [w.path]
    every = sorted(w.path.glob("*.csv")) or sorted(w.path.glob("*/*.csv"))
    listing = [t for t in every if _columns(t)["image"]]
    if every and not listing:
        raise _not_found(w, f"one of the columns {', '.join(_SAME['image'])} in {every[0].name}")
    if len(listing) > 1 and not all(_split_of(t) for t in listing):
        named = ", ".join(t.relative_to(w.path).as_posix() for t in listing)
        raise UserError(
            f"{w.path.name} holds several tables of images and not one a split: {named}",
            hint=f"give the one that is meant: curbside cases import folder {listing[0]} --out …",
        )
    return listing


def _split_of(table: Path) -> str:
    """The split that a table's name or folder says, else ``""``."""
    return next((n for n in (table.stem, table.parent.name) if n.lower() in _ROLE_OF), "")


def _columns(table: Path) -> dict[str, str | None]:
    """What a table calls the columns that are known, None where it has none."""
    with table.open(encoding="utf-8-sig", newline="") as f:
        names = {n.strip().lower(): n for n in csv.DictReader(f).fieldnames or []}
    return {key: next((names[c] for c in same if c in names), None) for key, same in _SAME.items()}


def _from_table(table: Path, w: Wanted) -> Iterator[Row]:
    column, split = _columns(table), _split_of(table)
    # tables of several folders may name their images alike
    prefix = f"{table.parent.name}/" if table.parent not in (w.path, w.path.parent) else ""
    if column["image"] is None:
        raise _not_found(w, f"one of the columns {', '.join(_SAME['image'])} in {table.name}")
    with table.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        files: dict[str, Path] | None = None
        for line in reader:
            said = {k: (line.get(c) or "").strip() if c else "" for k, c in column.items()}
            path = table.parent / said["image"]
            if not path.is_file():
                # many tables name images without folder or ending
                if files is None:
                    every = (p for p in table.parent.rglob("*") if p.suffix.lower() in _IMAGES)
                    files = {k: p for p in every for k in (p.name, p.stem)}
                path = files.get(said["image"], path)
            key = said["group"] or f"{prefix}{said['image']}"
            yield {
                "image": _relative(path, w),
                "role": _role(said["split"] or split, key),
                "group": _opaque(key),
                "modality": said["modality"] or w.modality,
                "label": said["label"],
            }


def _from_subfolders(w: Wanted) -> Iterator[Row]:
    files = sorted(p for p in w.path.rglob("*") if p.suffix.lower() in _IMAGES)
    if not files:
        raise _not_found(w, "a CSV or images")
    for path in files:
        parts = path.relative_to(w.path).parts
        split = next((p for p in parts[:-1] if p.lower() in _ROLE_OF), "")
        key = "/".join(parts)
        yield {
            "image": _relative(path, w),
            "role": _role(split, key),
            "group": _opaque(key),
            "modality": w.modality,
            "label": parts[-2] if len(parts) > 1 and parts[-2] != split else "",
        }


def _datasets(w: Wanted) -> Iterator[Row]:
    """A folder of Hugging Face ``datasets``: ``save_to_disk`` (Arrow) or Parquet shards.

    Read by pyarrow alone.  Needs an image column (bytes or path) and a ``ClassLabel`` or text
    label; a split is a folder (``train/``) or the beginning of a shard's name.
    """
    import pyarrow.parquet as pq

    shards = sorted([*w.path.rglob("*.arrow"), *w.path.rglob("*.parquet")])
    shards = [s for s in shards if not s.name.startswith("cache-")]
    if not shards:
        raise _not_found(w, ".arrow or .parquet shards")
    found = []
    for shard in shards:
        schema = _shard(shard, []).schema if shard.suffix == ".arrow" else pq.read_schema(shard)
        features = _features(schema, shard)
        image, label = _image_and_label(schema.names, features, w)
        classes = features.get(label, {}).get("names") if label else None
        found.append((shard, image, label, classes))
    # labels that are no classes: all there are, whichever shard they are in
    plain = sorted({
        str(v)
        for shard, _, label, classes in found
        if label and classes is None
        for v in _shard(shard, [label])[label].unique().to_pylist()
        if v is not None
    })  # fmt: skip
    number: dict[str, int] = {}
    for shard, image, label, classes in found:
        by_name = shard.stem.split("-")[0].lower()
        folder = shard.parent.name.lower()
        split = by_name if by_name in _ROLE_OF else folder if folder in _ROLE_OF else "train"
        names = plain if classes is None else classes
        for row in _shard(shard, [c for c in (image, label) if c]).to_pylist():
            i = number[split] = number.get(split, -1) + 1
            name = f"{w.task}-{split}-{i:06d}"
            value = row[label] if label else None
            if classes is not None and isinstance(value, int):
                # −1 is how the library writes a hidden label
                value = classes[value] if value >= 0 else None
            yield {
                "id": name,
                "image": _relative(_stored(row[image], shard, name, w), w),
                "role": _role(split, name),
                "modality": w.modality or w.task,
                "task": w.task if names else "",
                "label": "" if value is None else str(value),
                "options": [str(n) for n in names] if len(names) > 1 else [],
            }


def _shard(shard: Path, columns: list[str]) -> Any:
    """Some columns of a shard, one shard in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if shard.suffix == ".parquet":
        return pq.read_table(shard, columns=columns)
    with pa.memory_map(str(shard)) as source:
        table = pa.ipc.open_stream(source).read_all()
        return table.select(columns) if columns else table


def _features(schema: Any, shard: Path) -> dict[str, Any]:
    """Features as the library describes them: in the schema's metadata or beside the shard."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw:
        return dict(json.loads(raw)["info"]["features"])
    beside = shard.parent / "dataset_info.json"
    return dict(json.loads(beside.read_text("utf-8"))["features"]) if beside.is_file() else {}


def _image_and_label(
    columns: Sequence[str], features: Mapping[str, Any], w: Wanted
) -> tuple[str, str | None]:
    image = next((c for c, f in features.items() if f.get("_type") == "Image"), None)
    image = image or next((c for c in ("image", "img") if c in columns), None)
    if image is None:
        raise _not_found(w, f"an image column; its columns: {', '.join(columns)}")
    label = next((c for c, f in features.items() if f.get("_type") == "ClassLabel"), None)
    return image, label or next((c for c in _SAME["label"] if c in columns), None)


def _stored(value: Any, shard: Path, name: str, w: Wanted) -> Path:
    """An image's file: written from its bytes, or the path that the row names."""
    raw = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(raw, bytes):
        suffix = ".png" if raw[:4] == b"\x89PNG" else ".jpg"
        path = w.images / f"{name}{suffix}"
        with new_file(path) as temporary:
            temporary.write_bytes(raw)
        return path
    path = Path(value["path"] if isinstance(value, dict) else value)
    return path if path.is_absolute() else shard.parent / path


# -- shared ----------------------------------------------------------------------------------------


def _write_png(pixels: Any, name: str, w: Wanted) -> Path:
    from PIL import Image

    path = w.images / f"{name}.png"
    with new_file(path) as temporary:
        Image.fromarray(np.asarray(pixels, np.uint8)).save(temporary, "PNG")
    return path


def _relative(image: Path | str, w: Wanted) -> str:
    path, base = Path(image).absolute(), w.out.parent.absolute()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _opaque(key: str) -> str:
    """A group's name that is no patient's."""
    return content_hash("group", key)[:16]


def _share(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32


def _divided(key: str) -> str:
    """A role of a training split, by group: mostly train, some tune, some calibration."""
    share = _share(key)
    return "train" if share < 0.7 else "tune" if share < 0.82 else "calibration"


def _role(split: str, key: str) -> str:
    """A split's role; where there is none, by the hash of the group."""
    if split.lower() in _ROLE_OF:
        role = _ROLE_OF[split.lower()]
        return _divided(key) if role == "train" else role
    if split:
        raise UserError(f"split {split!r} is unknown; valid: {', '.join(_ROLE_OF)}, or none")
    share = _share(key)
    return next(role for role, upto in _SHARES if share < upto)


def _not_found(w: Wanted, what: str) -> UserError:
    return UserError(
        f"{w.path.name} does not hold what was looked for: {what}", hint="docs/cases.md"
    )


#: Kind → importer, in the order of the help text.
KINDS: Mapping[str, Callable[[Wanted], Iterator[Row]]] = {
    "vqa-rad": _vqa_rad,
    "vqa-med-2019": _vqa_med,
    "medmnist": _medmnist,
    "folder": _folder,
    "datasets": _datasets,
}
