"""Which row of which segment belongs to a digest, for millions of them: some 40 bytes each.

Three sorted columns instead of a dictionary, whose strings and tuples take eight times that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["DigestRows", "check_digests"]

#: Bytes of a SHA-256.
_WIDTH = 32
_KEY = np.dtype(f"S{_WIDTH}")


class DigestRows:
    """Digest → (segment, row); of a digest that several segments hold, the latest counts."""

    def __init__(self) -> None:
        self._keys: NDArray[np.bytes_] = np.zeros(0, _KEY)
        self._segments: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._rows: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(np.unique(self._keys))

    def add(self, segments: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Take up segments by number with the digests of their rows, the latest last.

        Raises:
            ValueError: a digest is no SHA-256 in lower-case hex; nothing is taken up.
        """
        newest_first = segments[::-1]
        keys = _keys([d for _, digests in newest_first for d in digests])
        sizes = [len(digests) for _, digests in newest_first]
        numbers = np.repeat(np.array([n for n, _ in newest_first], np.uint32), sizes)
        rows = np.concatenate([np.arange(n, dtype=np.uint32) for n in (0, *sizes)])
        order = np.argsort(keys, kind="stable")
        # to the left of equal ones, which are older
        at = np.searchsorted(self._keys, keys[order], side="left")
        self._keys = np.insert(self._keys, at, keys[order])
        self._segments = np.insert(self._segments, at, numbers[order])
        self._rows = np.insert(self._rows, at, rows[order])

    def drop(self, segment: int) -> None:
        """Forget a segment; older rows of its digests count again."""
        kept = self._segments != segment
        self._keys, self._rows = self._keys[kept], self._rows[kept]
        self._segments = self._segments[kept]

    def of(self, segment: int) -> tuple[str, ...]:
        """Digests of a segment's rows, in order."""
        here = np.flatnonzero(self._segments == segment)
        raw = self._keys[here[np.argsort(self._rows[here])]].tobytes()
        return tuple(raw[at : at + _WIDTH].hex() for at in range(0, len(raw), _WIDTH))

    def find(self, digest: str) -> tuple[int, int] | None:
        """Segment and row of a digest, or None."""
        try:
            key = _keys([digest])
        except ValueError:
            return None
        at = int(np.searchsorted(self._keys, key, side="left")[0])
        if at == len(self._keys) or self._keys[at] != key[0]:
            return None
        return int(self._segments[at]), int(self._rows[at])


def check_digests(digests: Sequence[str]) -> None:
    """Raises ValueError or TypeError where one is no SHA-256 in lower-case hex."""
    _keys(digests)


def _keys(digests: Sequence[str]) -> NDArray[np.bytes_]:
    """As 32 bytes each.  Raises ValueError where one is no SHA-256 in lower-case hex."""
    raw = b"".join(bytes.fromhex(d) for d in digests)
    if raw.hex() != "".join(digests) or any(len(d) != 2 * _WIDTH for d in digests):
        raise ValueError("not SHA-256 in lower-case hex")
    return np.frombuffer(raw, _KEY)
