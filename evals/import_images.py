"""Published sets of labelled images: MedMNIST, folders with a CSV, Hugging Face ``datasets``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curbside.errors import UserError
from curbside.evals.import_form import (
    IMAGES,
    ROLE_OF,
    SAME,
    Row,
    Wanted,
    not_found,
    opaque,
    relative,
    role_of,
)
from curbside.storage import new_file

__all__ = ["datasets", "folder", "medmnist"]


def medmnist(w: Wanted) -> Iterator[Row]:
    """A MedMNIST ``.npz``: ``{train,val,test}_{images,labels}`` (Yang et al., 2023).

    One in four of the training images calibrates; they come without patients.
    """
    files = sorted(w.path.glob("*.npz")) if w.path.is_dir() else [w.path]
    if not files:
        raise not_found(w, "a .npz file")
    for file in files:
        with np.load(file, allow_pickle=False) as data:
            if "train_images" not in data:
                raise not_found(w, "arrays train_images, train_labels, …")
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
                    role = ROLE_OF[split]
                    if role == "train" and i % 4 == 3:
                        role = "calibration"
                    yield {
                        "id": name,
                        "image": relative(_write_png(pixels, name, w), w),
                        "role": role,
                        "modality": w.modality or file.stem,
                        "task": file.stem,
                        "label": names[int(labels[i])],
                        "options": names,
                    }


def _write_png(pixels: Any, name: str, w: Wanted) -> Path:
    from PIL import Image

    path = w.images / f"{name}.png"
    with new_file(path) as temporary:
        Image.fromarray(np.asarray(pixels, np.uint8)).save(temporary, "PNG")
    return path


def folder(w: Wanted) -> Iterator[Row]:
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
        raise not_found(w, f"one of the columns {', '.join(SAME['image'])} in {every[0].name}")
    if len(listing) > 1 and not all(_split_of(t) for t in listing):
        named = ", ".join(t.relative_to(w.path).as_posix() for t in listing)
        raise UserError(
            f"{w.path.name} holds several tables of images and not one a split: {named}",
            hint=f"give the one that is meant: curbside cases import folder {listing[0]} --out …",
        )
    return listing


def _split_of(table: Path) -> str:
    """The split that a table's name or folder says, else ``""``."""
    return next((n for n in (table.stem, table.parent.name) if n.lower() in ROLE_OF), "")


def _columns(table: Path) -> dict[str, str | None]:
    """What a table calls the columns that are known, None where it has none."""
    with table.open(encoding="utf-8-sig", newline="") as f:
        names = {n.strip().lower(): n for n in csv.DictReader(f).fieldnames or []}
    return {key: next((names[c] for c in same if c in names), None) for key, same in SAME.items()}


def _from_table(table: Path, w: Wanted) -> Iterator[Row]:
    column, split = _columns(table), _split_of(table)
    # tables of several folders may name their images alike
    prefix = f"{table.parent.name}/" if table.parent not in (w.path, w.path.parent) else ""
    if column["image"] is None:
        raise not_found(w, f"one of the columns {', '.join(SAME['image'])} in {table.name}")
    with table.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        files: dict[str, Path] | None = None
        for line in reader:
            said = {k: (line.get(c) or "").strip() if c else "" for k, c in column.items()}
            path = table.parent / said["image"]
            if not path.is_file():
                # many tables name images without folder or ending
                if files is None:
                    every = (p for p in table.parent.rglob("*") if p.suffix.lower() in IMAGES)
                    files = {k: p for p in every for k in (p.name, p.stem)}
                path = files.get(said["image"], path)
            key = said["group"] or f"{prefix}{said['image']}"
            yield {
                "image": relative(path, w),
                "role": role_of(said["split"] or split, key),
                "group": opaque(key),
                "modality": said["modality"] or w.modality,
                "label": said["label"],
            }


def _from_subfolders(w: Wanted) -> Iterator[Row]:
    files = sorted(p for p in w.path.rglob("*") if p.suffix.lower() in IMAGES)
    if not files:
        raise not_found(w, "a CSV or images")
    for path in files:
        parts = path.relative_to(w.path).parts
        split = next((p for p in parts[:-1] if p.lower() in ROLE_OF), "")
        key = "/".join(parts)
        yield {
            "image": relative(path, w),
            "role": role_of(split, key),
            "group": opaque(key),
            "modality": w.modality,
            "label": parts[-2] if len(parts) > 1 and parts[-2] != split else "",
        }


def datasets(w: Wanted) -> Iterator[Row]:
    """A folder of Hugging Face ``datasets``: ``save_to_disk`` (Arrow) or Parquet shards.

    Read by pyarrow alone.  Needs an image column (bytes or path) and a ``ClassLabel`` or text
    label; a split is a folder (``train/``) or the beginning of a shard's name.
    """
    import pyarrow.parquet as pq

    shards = sorted([*w.path.rglob("*.arrow"), *w.path.rglob("*.parquet")])
    shards = [s for s in shards if not s.name.startswith("cache-")]
    if not shards:
        raise not_found(w, ".arrow or .parquet shards")
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
        parent = shard.parent.name.lower()
        split = by_name if by_name in ROLE_OF else parent if parent in ROLE_OF else "train"
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
                "image": relative(_stored(row[image], shard, name, w), w),
                "role": role_of(split, name),
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
        raise not_found(w, f"an image column; its columns: {', '.join(columns)}")
    label = next((c for c, f in features.items() if f.get("_type") == "ClassLabel"), None)
    return image, label or next((c for c in SAME["label"] if c in columns), None)


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
