"""Studies are lazy, name no file, and are named by content or by hash."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curbside.errors import ImageError
from curbside.study import Instance, Question, QuestionKind, Series, Study, content_hash


@given(st.lists(st.text(max_size=5), max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_no_two_lists_of_parts_share_a_hash(a: list[str], b: list[str]) -> None:
    assert (content_hash(*a) == content_hash(*b)) == (a == b)


def test_text_and_its_bytes_are_one() -> None:
    assert content_hash("ä") == content_hash("ä".encode())


def test_nothing_is_opened_before_pixels_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "Doe^Jane.png"
    study = Study.from_image(path)
    assert len(study.instances) == 1
    with pytest.raises(ImageError) as e:
        study.instances[0].pixels()
    assert e.value.reason == "missing"
    assert "Doe" not in f"{study!r} {study.instances[0]!r} {e.value}"
    Image.new("L", (3, 2), 9).save(path)
    pixels = study.instances[0].pixels()
    assert pixels.shape == (2, 3, 3)
    assert (pixels == 9).all()
    assert study.instances[0].digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_id_is_a_hash_of_where_or_of_what(tmp_path: Path) -> None:
    assert Study.from_image(tmp_path / "a").id == Study.from_image(str(tmp_path / "a")).id
    assert Study.from_image(tmp_path / "a").id != Study.from_image(tmp_path / "b").id
    assert Study.from_image(b"1").id == Study.from_image(b"1").id != Study.from_image(b"2").id
    assert Study.from_image(b"1", id="x").id == "x"
    assert len(Study.from_image(b"1").id) == 16


def test_instances_come_in_order_over_series() -> None:
    parts = [Instance(bytes([i])) for i in range(3)]
    study = Study("s", (Series((parts[0],)), Series((parts[1], parts[2]))))
    assert study.instances == tuple(parts)
    assert parts[1].digest() == hashlib.sha256(b"\x01").hexdigest()


def test_received_at_knows_its_zone() -> None:
    assert Study.from_image(b"1").received_at.utcoffset() is not None


def test_an_instance_can_be_pickled() -> None:
    instance = Instance(b"raw")
    assert pickle.loads(pickle.dumps(instance)) == instance  # noqa: S301  our own bytes


@pytest.mark.parametrize(
    "other",
    [
        Question(options=("b", "a")),
        Question(options=("a", "b"), text="?"),
        Question(options=("a", "b"), task="t"),
        Question(options=("a", "b"), kind=QuestionKind.VQA_CLOSED),
    ],
)
def test_the_key_is_of_all_that_an_answer_may_depend_on(other: Question) -> None:
    assert Question(options=("a", "b")).key == Question(options=("a", "b")).key != other.key


def test_bytes_are_read_as_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    from_file = Study.from_image(path).instances[0].pixels()
    from_bytes = Study.from_image(path.read_bytes()).instances[0].pixels()
    np.testing.assert_array_equal(from_file, from_bytes)
