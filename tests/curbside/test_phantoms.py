"""Phantoms: reproducible, labelled as such, of the corpus's form, with the planted disparity."""

from __future__ import annotations

import errno
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curbside.cases import ROLES, Cases, read_cases
from curbside.errors import StorageError
from curbside.phantom_pictures import SIDE, TASKS, draw
from curbside.phantoms import COUNTS, FAINTNESS, SOURCE, TIER, write_phantoms
from curbside.pixels import read_image
from curbside.storage import tree_digest

SMALL = 0.05


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return read_cases(write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", scale=SMALL))


def picture(modality: str, label: str, strength: float, seed: int = 0) -> np.ndarray:
    patient, exposure = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    return draw(modality, label, patient, exposure, strength).astype(float)


def test_eight_modalities_with_findings_and_two_that_no_index_sees() -> None:
    assert Counter(TIER.values()) == {"common": 5, "rare": 3, "novel": 2}
    assert set(TIER) == set(TASKS)
    assert all(2 <= len(labels) <= 4 for labels in TASKS.values())


def test_common_ones_earn_specialists_and_their_own_calibration() -> None:
    from curbside.config import Config

    config = Config()
    assert COUNTS["rare"]["train"] <= config.fleet.shots
    for modality, labels in TASKS.items():
        if TIER[modality] == "common":
            drawn = {r: len(labels) * round(n / len(labels)) for r, n in COUNTS["common"].items()}
            assert drawn["train"] >= config.fleet.specialist_minimum
            assert drawn["calibration"] >= config.index.stratum_minimum
        elif TIER[modality] == "rare":
            assert COUNTS["rare"]["train"] * len(labels) < config.fleet.specialist_minimum


def test_novel_ones_stand_in_test_alone(small: Cases) -> None:
    assert set(small.roles[small.tiers == "novel"].tolist()) == {"test"}
    assert set(small.roles[small.tiers != "novel"].tolist()) == set(ROLES)


def test_every_case_says_that_it_is_a_phantom(small: Cases) -> None:
    for case in small:
        assert case.id.startswith("phantom-")
        assert case.image.name.startswith("phantom-")
        assert case.attributes["source"] == SOURCE
        assert case.attributes["dataset"].startswith("phantom-")
        assert (case.task or "").startswith("phantom_")


def test_neither_id_nor_path_nor_group_gives_the_label_away(small: Cases) -> None:
    for case in small:
        hidden = f"{case.id} {case.image.relative_to(small.path.parent)} {case.group}"
        assert str(case.label) not in hidden
        assert str(case.role) not in hidden


def test_pictures_are_read_and_of_every_label(small: Cases) -> None:
    for case in small:
        assert read_image(case.image).shape == (SIDE, SIDE, 3)
    drawn = {(c.modality, c.label) for c in small}
    assert drawn == {(m, label) for m, labels in TASKS.items() for label in labels}


def test_the_same_seed_gives_the_same_bytes(small: Cases, tmp_path: Path) -> None:
    again = write_phantoms(tmp_path / "again", scale=SMALL)
    other = write_phantoms(tmp_path / "other", scale=SMALL, seed=1)
    assert tree_digest(again.parent) == tree_digest(small.path.parent)
    assert read_cases(again).digest == small.digest != read_cases(other).digest


def test_a_larger_set_holds_the_smaller_one(small: Cases, tmp_path: Path) -> None:
    large = read_cases(write_phantoms(tmp_path / "large", scale=2 * SMALL))
    assert set(small.ids.tolist()) < set(large.ids.tolist())


def test_some_patients_have_two_pictures_of_one_role_and_label(tmp_path: Path) -> None:
    cases = read_cases(write_phantoms(tmp_path / "p", scale=0.12))
    sizes = Counter(cases.groups.tolist())
    assert set(sizes.values()) == {1, 2}
    for group in (g for g, n in sizes.items() if n == 2):
        one, two = cases.take(cases.groups == group)
        assert (one.role, one.label, one.modality) == (two.role, two.label, two.modality)
        assert one.attributes["site_group"] == two.attributes["site_group"]


def test_both_groups_are_in_every_tier(small: Cases) -> None:
    found = {(c.tier, c.attributes["site_group"]) for c in small}
    assert found == {(t, g) for t in ("common", "rare", "novel") for g in FAINTNESS}


@pytest.mark.parametrize("modality", [m for m in TASKS if TIER[m] != "novel"])
def test_findings_of_group_b_are_fainter(modality: str) -> None:
    change = {}
    for group, faintness in FAINTNESS.items():
        distances = [
            np.abs(picture(modality, label, faintness, s) - picture(modality, label, 0, s)).mean()
            for label in TASKS[modality][1:]
            for s in range(4)
        ]
        change[group] = np.mean(distances)
    assert 0 < change["B"] < 0.85 * change["A"]


def test_modalities_look_unlike_each_other(small: Cases) -> None:
    means = {}
    for modality in TASKS:
        images = [read_image(c.image) for c in small.take(small.modalities == modality)]
        means[modality] = np.mean([i.astype(float) for i in images], axis=0)
    for a in means:
        for b in means:
            if a < b:
                assert np.abs(means[a] - means[b]).mean() > 10, (a, b)


def test_a_thousand_pictures_take_less_than_twenty_seconds(tmp_path: Path) -> None:
    started = time.process_time()
    cases = read_cases(write_phantoms(tmp_path / "p", scale=0.1))
    seconds = (time.process_time() - started) / len(cases)
    assert seconds * 1400 < 20


def test_a_full_disk_leaves_the_set_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_phantoms(tmp_path / "p", scale=SMALL)
    before = tree_digest(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        write_phantoms(manifest.parent, scale=SMALL, seed=5)
    assert tree_digest(tmp_path) == before
