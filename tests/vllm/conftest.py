"""Makes the tiny checkpoints and the planted world importable."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "agents"), str(TESTS / "router")]
