"""Importers, on files of exactly the published form (and on the real ones where there are)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curbside.cli import app
from curbside.errors import CasesError, UserError
from curbside.evals.importers import KINDS, import_cases


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def place(path: Path, shade: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shade))
    return path


def rad(i: int, image: str, phrase: str, answer: str, kind: str = "CLOSED") -> dict[str, object]:
    """One object of ``VQA_RAD Dataset Public.json``, all of its keys."""
    return {
        "qid": str(i),
        "phrase_type": phrase,
        "qid_linked_id": f"linked-{i}",
        "image_case_url": "https://medpix.nlm.nih.gov/case?id=1",
        "image_name": image,
        "image_organ": "CHEST",
        "evaluation": "not evaluated",
        "question": "Is there a nodule?",
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": "PRES",
        "answer": answer,
        "answer_type": kind,
    }


def test_vqa_rad_as_published(tmp_path):
    rows = [
        rad(0, "a.jpg", "freeform", "Yes"),
        rad(1, "b.jpg", "para", "No "),
        rad(2, "b.jpg", "test_freeform", "no"),
        rad(3, "c.jpg", "test_para", "left lung", "OPEN"),
    ]
    folder = tmp_path / "osf"
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        place(folder / "VQA_RAD Image Folder" / name)
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    found = import_cases("vqa-rad", folder, tmp_path / "rad.jsonl")
    assert [c.role in ("train", "tune", "calibration") for c in found][:1] == [True]
    # a train question on a test image has no role: the rest is disjoint by image
    assert found[1].role is None
    assert found[1].attributes["shared_image"] == "yes"
    assert [c.role for c in found][2:] == ["test", "test"]
    assert [c.label for c in found] == ["yes", "no", "no", None]
    assert found[0].options == ("yes", "no")
    assert found[3].options == ()
    assert all(c.image.is_file() for c in found)
    assert "b.jpg" not in found[1].group


def test_vqa_med_as_published(tmp_path):
    folder = tmp_path / "ImageClef-2019-VQA-Med-Training"
    place(folder / "Train_images" / "synpic1.jpg")
    (folder / "All_QA_Pairs_train.txt").write_text(
        "synpic1|is this a contrast or noncontrast ct?|contrast\nsynpic1|is this a t1?|no\n"
    )
    test = tmp_path / "VQAMed2019Test"
    place(test / "VQAMed2019_Test_Images" / "synpic2.jpg")
    (test / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(
        "synpic2|modality|is this an mri?|yes\n"
    )
    found = import_cases("vqa-med-2019", tmp_path, tmp_path / "med.jsonl")
    assert len(found) == 3
    assert [c.label for c in found if c.options] == ["no", "yes"]
    assert found[2].role == "test"
    assert found[2].attributes["question_type"] == "modality"
    assert all(c.image.is_file() for c in found)


def test_medmnist_as_published(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"train": 8, "val": 3, "test": 4}
    arrays = {}
    for split, n in sizes.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    found = import_cases(
        "medmnist", tmp_path / "breastmnist.npz", tmp_path / "b.jsonl",
        modality="us_breast", labels=("malignant", "benign"),
    )  # fmt: skip
    assert len(found) == 15
    assert sorted(set(found.roles.tolist())) == ["calibration", "test", "train", "tune"]
    assert found[0].options == ("malignant", "benign")
    assert found.labels[:2].tolist() == ["malignant", "benign"]
    with Image.open(found[0].image) as image:
        np.testing.assert_array_equal(np.asarray(image), arrays["train_images"][0])
    unnamed = import_cases("medmnist", tmp_path / "breastmnist.npz", tmp_path / "c.jsonl")
    assert unnamed[0].options == ("class_0", "class_1")


def test_several_labels_an_image_are_refused(tmp_path):
    np.savez(
        tmp_path / "chestmnist.npz",
        train_images=np.zeros((2, 28, 28), np.uint8),
        train_labels=np.zeros((2, 14), np.uint8),
    )
    with pytest.raises(UserError, match="several labels"):
        import_cases("medmnist", tmp_path / "chestmnist.npz", tmp_path / "c.jsonl")


def test_a_folder_with_a_table(tmp_path):
    lines = ["image_id,dx,lesion_id,split"]
    for i in range(6):
        place(tmp_path / "set" / "part_1" / f"ISIC_{i}.jpg")
        split = ("train", "val", "test")[i % 3]
        lines.append(f"ISIC_{i},{('nv', 'mel')[i % 2]},HAM_{i},{split}")
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(lines))
    found = import_cases("folder", tmp_path / "set", tmp_path / "m.jsonl", modality="dermoscopy")
    assert found[0].options == ("mel", "nv")
    assert found[2].role == "test"
    assert found[1].role == "tune"
    assert set(found.modalities.tolist()) == {"dermoscopy"}
    assert all(c.image.is_file() for c in found)
    assert "HAM_0" not in (tmp_path / "m.jsonl").read_text()  # a patient's id stays outside


def test_a_folder_with_a_subfolder_a_class(tmp_path):
    for split in ("train", "test"):
        for label in ("normal", "pneumonia"):
            for i in range(3):
                place(tmp_path / "chest" / split / label / f"{i}.jpeg")
    found = import_cases("folder", tmp_path / "chest", tmp_path / "m.jsonl", modality="cxr")
    assert sorted(set(found.labels.tolist())) == ["normal", "pneumonia"]
    assert sum(c.role == "test" for c in found) == 6
    assert found[0].task == "chest"


def test_without_a_split_roles_come_by_patient(tmp_path):
    lines = ["image,label,patient_id"]
    lines += [f"{i}.png,{'ab'[i % 2]},p{i // 4}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = import_cases("folder", tmp_path / "t.csv", tmp_path / "m.jsonl")
    role_of: dict[str, set[str | None]] = {}
    for c in found:
        role_of.setdefault(c.group, set()).add(c.role)
    assert all(len(r) == 1 for r in role_of.values())
    assert set(found.roles.tolist()) == {"train", "tune", "calibration", "test"}


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["benign", "malignant"], "_type": "ClassLabel"},
}


def rows_of(n: int) -> pa.Table:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(i), "path": None} for i in range(n)], kind)
    return pa.table({"image": images, "label": pa.array([i % 2 for i in range(n)], pa.int64())})


def test_a_datasets_folder_saved_to_disk(tmp_path):
    """``DatasetDict.save_to_disk``: a folder a split, Arrow streams, the features beside them."""
    root = tmp_path / "lesions"
    for split, n in (("train", 5), ("validation", 2), ("test", 3)):
        folder = root / split
        folder.mkdir(parents=True)
        table = rows_of(n)
        shard = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(shard, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
        (folder / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        )
    (root / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    found = import_cases("datasets", root, tmp_path / "m.jsonl", modality="dermoscopy")
    assert len(found) == 10
    assert found[0].options == ("benign", "malignant")
    assert sum(c.role == "test" for c in found) == 3
    assert sum(c.role == "tune" for c in found) >= 2
    assert all(c.image.read_bytes()[:4] == b"\x89PNG" for c in found)


def test_a_datasets_folder_of_parquet_shards(tmp_path):
    """As hosted: ``data/train-00000-of-00002.parquet``, the features in the schema's metadata."""
    folder = tmp_path / "lesions" / "data"
    folder.mkdir(parents=True)
    meta = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pq.write_table(rows_of(3).replace_schema_metadata(meta), folder / f"{name}.parquet")
    found = import_cases("datasets", tmp_path / "lesions", tmp_path / "m.jsonl")
    assert len({c.id for c in found}) == 9
    assert found.labels.tolist() == ["benign", "malignant", "benign"] * 3
    assert sum(c.role == "test" for c in found) == 3


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in KINDS:
        with pytest.raises((UserError, CasesError), match="does not hold"):
            import_cases(kind, tmp_path / "empty", tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="kind 'chexpert' is unknown; valid: vqa-rad"):
        import_cases("chexpert", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="must end in"):
        import_cases("folder", tmp_path, tmp_path / "m.csv")
    with pytest.raises(UserError, match="does not exist"):
        import_cases("folder", tmp_path / "none", tmp_path / "m.jsonl")


def test_the_command_says_how_many_and_which_are_open(tmp_path):
    from typer.testing import CliRunner

    place(tmp_path / "VQA_RAD Image Folder" / "a.jpg")
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(
        json.dumps([rad(0, "a.jpg", "test_freeform", "Yes"), rad(1, "a.jpg", "test_para", "left")])
    )
    result = CliRunner().invoke(
        app, ["cases", "import", "vqa-rad", str(tmp_path), "--out", str(tmp_path / "m.jsonl")]
    )
    assert result.exit_code == 0, result.output
    assert "2 cases: 2 test" in result.output
    assert "1 are open" in result.output


def test_the_real_files_where_they_are(corpus, tmp_path):
    if corpus is None:
        return  # files of the same form are above
    rad_cases = import_cases("vqa-rad", corpus.parent / "vqa" / "vqa-rad", tmp_path / "r.jsonl")
    assert len(rad_cases) == 2248
    assert sum(c.role == "test" for c in rad_cases) == 451
    med = import_cases("vqa-med-2019", corpus.parent / "vqa" / "vqa-med-2019", tmp_path / "m.jsonl")
    assert len(med) == 999
    breast = import_cases("medmnist", corpus.parent / "medmnist", tmp_path / "b.jsonl")
    assert len(breast) == 546 + 78 + 156
    assert all(c.image.is_file() for c in (rad_cases[0], med[0], breast[0]))
