"""Importers, on files of exactly the published form (and on the real ones where there are)."""

from __future__ import annotations

import io
import json
from collections import Counter
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


def test_medmnist_in_colour_and_in_three_dimensions(tmp_path):
    """PathMNIST and the like: (n, 28, 28, 3); OrganMNIST3D and the like: (n, 28, 28, 28)."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), np.uint8)
    label = np.array([[0], [1], [8], [2]], np.uint8)
    for name, images in (("pathmnist", pixels), ("organmnist3d", np.zeros((4, 28, 28, 28)))):
        np.savez_compressed(
            tmp_path / f"{name}.npz",
            **{f"{s}_{k}": v for s in ("train", "val", "test")
               for k, v in (("images", images.astype(np.uint8)), ("labels", label))},
        )  # fmt: skip
    found = import_cases("medmnist", tmp_path / "pathmnist.npz", tmp_path / "p.jsonl")
    assert len(found[0].options) == 9 and found[2].label == "class_8"
    with Image.open(found[1].image) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels[1])
    with pytest.raises(UserError, match="holds volumes of 28 × 28 × 28; valid: grey or colour"):
        import_cases("medmnist", tmp_path / "organmnist3d.npz", tmp_path / "o.jsonl")


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


def test_an_image_folder_of_hugging_face(tmp_path):
    """``imagefolder``: ``train/metadata.csv`` with ``file_name`` beside the images it lists."""
    for split, n in (("train", 4), ("test", 2)):
        lines = ["file_name,label"]
        for i in range(n):
            place(tmp_path / "set" / split / f"{i:04d}.png")
            lines.append(f"{i:04d}.png,{('nv', 'mel')[i % 2]}")
        (tmp_path / "set" / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    found = import_cases("folder", tmp_path / "set", tmp_path / "m.jsonl", modality="dermoscopy")
    assert len(found) == 6 and len({c.image for c in found}) == 6
    assert found.labels.tolist() == ["nv", "mel"] * 3
    assert {c.image.parent.name: c.role for c in found}["test"] == "test"
    assert all(c.role != "test" for c in found if c.image.parent.name == "train")
    assert all(c.image.is_file() for c in found)


def test_a_table_a_split(tmp_path):
    for name in ("train", "val", "test"):
        place(tmp_path / "set" / "images" / f"{name}.png")
        (tmp_path / "set" / f"{name}.csv").write_text(f"image,label\n{name}.png,{name[0]}\n")
    (tmp_path / "set" / "sizes.csv").write_text("width,height\n8,8\n")  # no table of images
    found = import_cases("folder", tmp_path / "set", tmp_path / "m.jsonl", modality="cxr")
    assert {c.image.stem: c.role for c in found if c.image.stem != "train"} == {
        "val": "tune", "test": "test",
    }  # fmt: skip
    assert {c.image.stem for c in found} == {"train", "val", "test"}


def test_several_tables_are_not_chosen_among_in_silence(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("image,label\nx.png,y\n")
    with pytest.raises(UserError, match=r"several tables of images and not one a split: a.csv, b"):
        import_cases("folder", tmp_path, tmp_path / "m.jsonl")


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


def library_set(**features):
    """Three splits as the library itself holds them."""
    import datasets

    n = {"train": 5, "validation": 2, "test": 3}
    features = datasets.Features({"image": datasets.Image(), **features})

    def split(size: int) -> datasets.Dataset:
        images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(size)]
        values = {k: [i % 2 for i in range(size)] for k in features if k != "image"}
        if isinstance(features.get("label"), datasets.Value):
            values["label"] = [3 + i % 2 for i in range(size)]
        return datasets.Dataset.from_dict({"image": images, **values}, features=features)

    return datasets.DatasetDict({k: split(v) for k, v in n.items()})


@pytest.mark.parametrize("how", ["save_to_disk", "to_parquet"])
def test_what_the_library_itself_writes(tmp_path, how):
    import datasets

    whole = library_set(label=datasets.ClassLabel(names=["benign", "malignant"]))
    root = tmp_path / "lesions"
    if how == "save_to_disk":
        whole.save_to_disk(root, num_shards={"train": 2, "validation": 1, "test": 1})
    else:
        for name, part in whole.items():
            (root / "data").mkdir(parents=True, exist_ok=True)
            part.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    found = import_cases("datasets", root, tmp_path / "m.jsonl", modality="dermoscopy")
    assert len(found) == 10 and found[0].options == ("benign", "malignant")
    by = {r: [c for c in found if c.role == r] for r in ("test", "tune")}
    assert [c.label for c in by["test"]] == ["benign", "malignant", "benign"]
    assert len(by["tune"]) >= 2
    shades = sorted(c.image.read_bytes() for c in by["test"])
    assert shades == sorted(png(i) for i in range(3))


def test_numbers_that_are_no_classes_stay_what_they_are(tmp_path):
    """``Value("int64")``: grades 3 and 4 are no places in a list; a shard may lack one of them."""
    import datasets

    whole = library_set(label=datasets.Value("int64"))
    whole["test"].select([0, 2]).to_parquet(tmp_path / "grades" / "test.parquet")
    whole["train"].to_parquet(tmp_path / "grades" / "train.parquet")
    found = import_cases("datasets", tmp_path / "grades", tmp_path / "m.jsonl", modality="cxr")
    assert {c.options for c in found} == {("3", "4")}
    assert [c.label for c in found if c.role == "test"] == ["3", "3"]


def test_a_hidden_label_is_none(tmp_path):
    """Competitions give out test labels as −1."""
    folder = tmp_path / "set"
    folder.mkdir()
    meta = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    table = rows_of(2).set_column(1, "label", pa.array([-1, 1], pa.int64()))
    pq.write_table(table.replace_schema_metadata(meta), folder / "test.parquet")
    found = import_cases("datasets", folder, tmp_path / "m.jsonl", modality="dermoscopy")
    assert [c.label for c in found] == [None, "malignant"]


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


def test_the_real_files(corpus, tmp_path):
    if corpus is None:
        pytest.skip("CURBSIDE_CORPUS is not set; files of the same form are above")
    rad_cases = import_cases("vqa-rad", corpus.parent / "vqa" / "vqa-rad", tmp_path / "r.jsonl")
    assert len(rad_cases) == 2248
    assert sum(c.role == "test" for c in rad_cases) == 451
    held = {c.image for c in rad_cases if c.role == "test"}
    assert not any(c.image in held for c in rad_cases if c.role not in (None, "test"))
    med = import_cases("vqa-med-2019", corpus.parent / "vqa" / "vqa-med-2019", tmp_path / "m.jsonl")
    assert len(med) == 999
    assert sum(bool(c.options) for c in med) == 79
    npz = corpus.parent / "medmnist" / "breastmnist.npz"
    breast = import_cases(
        "medmnist", npz, tmp_path / "b.jsonl", labels=("malignant", "normal_or_benign")
    )
    assert Counter(c.role for c in breast) == {
        "train": 410, "calibration": 136, "tune": 78, "test": 156,
    }  # fmt: skip
    with np.load(npz) as data:
        # as MedMNIST describes it: 0 malignant, 1 normal or benign
        malignant = sum(int((data[f"{s}_labels"] == 0).sum()) for s in ("train", "val", "test"))
        assert (breast.labels == "malignant").sum() == malignant == 210
        for case, pixels in zip(list(breast)[-3:], data["test_images"][-3:], strict=True):
            with Image.open(case.image) as image:
                np.testing.assert_array_equal(np.asarray(image), pixels)
    assert all(c.image.is_file() for found in (rad_cases, med, breast) for c in found)


def test_real_questions_in_their_published_files_are_the_same_cases(corpus, tmp_path):
    """The corpus keeps VQA-RAD and VQA-Med as ``qa.jsonl``; the published files say the same."""
    if corpus is None:
        pytest.skip("CURBSIDE_CORPUS is not set; files of the same form are above")
    table = corpus.parent / "vqa" / "vqa-rad" / "qa.jsonl"
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    osf = tmp_path / "osf"
    for name in sorted({r["image"] for r in rows}):
        (osf / "VQA_RAD Image Folder").mkdir(parents=True, exist_ok=True)
        (osf / "VQA_RAD Image Folder" / Path(name).name).symlink_to(table.parent / name)
    published = [
        rad(0, Path(r["image"]).name, r["phrase_type"], r["answer"], r["answer_type"])
        | {k: r[k] for k in ("qid", "question", "question_type")}
        | {"image_organ": r["organ"].upper()}
        for r in rows
    ]
    (osf / "VQA_RAD Dataset Public.json").write_text(json.dumps(published))
    a = import_cases("vqa-rad", osf, tmp_path / "a.jsonl")
    b = import_cases("vqa-rad", table.parent, tmp_path / "b.jsonl")
    assert [told(c) for c in a] == [told(c) for c in b]
    # roles of training images go by the image, so they may differ where its folder does
    assert [c.role in ("test", None) for c in a] == [c.role in ("test", None) for c in b]

    table = corpus.parent / "vqa" / "vqa-med-2019" / "qa.jsonl"
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    for split, folder, images in (
        ("train", "ImageClef-2019-VQA-Med-Training", "Train_images"),
        ("val", "ImageClef-2019-VQA-Med-Validation", "Val_images"),
    ):
        mine = [r for r in rows if r["split"] == split]
        (tmp_path / "med" / folder / images).mkdir(parents=True)
        for name in sorted({r["image"] for r in mine}):
            link = tmp_path / "med" / folder / images / Path(name).name
            link.symlink_to(table.parent / name)
        text = "".join(f"{Path(r['image']).stem}|{r['question']}|{r['answer']}\n" for r in mine)
        (tmp_path / "med" / folder / f"All_QA_Pairs_{split}.txt").write_text(text, "utf-8")
        # what lies beside them in the archives and is no table of pairs
        (tmp_path / "med" / folder / f"{split}_ImageIDs.txt").write_text("synpic1\n")
        by = tmp_path / "med" / folder / "QAPairsByCategory"
        by.mkdir()
        (by / f"C1_Modality_{split}.txt").write_text(text, "utf-8")
    a = import_cases("vqa-med-2019", tmp_path / "med", tmp_path / "c.jsonl")
    b = import_cases("vqa-med-2019", table.parent, tmp_path / "d.jsonl")
    assert sorted(told(c)[:3] for c in a) == sorted(told(c)[:3] for c in b)
    assert all(c.image.is_file() for c in a)


def told(case) -> tuple[str, ...]:
    """What a case asks and is answered, whatever its files are called."""
    kind = case.attributes.get("question_type", "")
    return (
        case.question, case.label or "", case.image.name, kind, *case.options, case.modality,
        case.attributes.get("shared_image", ""),
    )  # fmt: skip
