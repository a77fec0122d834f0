"""What the index knew of a run's cases comes back bit for bit, or says why not."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from curbside.errors import NotBuilt, StorageError
from curbside.evals.assessment_file import (
    ASSESSMENTS_FILE,
    Known,
    load_assessments,
    save_assessments,
)


def known(plant):
    t = plant(lambda a, m: 0.7, per=6).trained[0]
    return Known(t.test.assessments, t.specialists, t.serving)


def test_it_comes_back_bit_for_bit(plant, tmp_path):
    before = known(plant)
    save_assessments(before, tmp_path / ASSESSMENTS_FILE)
    after = load_assessments(tmp_path)
    assert (after.specialists, after.generalist) == (before.specialists, before.generalist)
    assert after.serving == (*sorted(before.specialists.values()), "generalist-full")
    for f in fields(before.assessments):
        a, b = getattr(before.assessments, f.name), getattr(after.assessments, f.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


def test_a_run_without_it_names_the_command(tmp_path):
    with pytest.raises(NotBuilt) as e:
        load_assessments(tmp_path)
    assert "eval run" in e.value.hint


def test_a_cut_file_is_damaged(plant, tmp_path):
    path = tmp_path / ASSESSMENTS_FILE
    save_assessments(known(plant), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StorageError, match="damaged"):
        load_assessments(tmp_path)
