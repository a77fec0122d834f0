"""Makes the marks, the tiny checkpoints and the planted world importable."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "agents"), str(HERE.parent / "router")]
