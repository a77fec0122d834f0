"""Segments, and which row of which belongs to a digest: on disk where they are many.

A :class:`~curbside.scratch.Scratch` of this process: of 10^6 rows, too, a few megabytes are in
memory, and of a dictionary of as many it would be 300.
"""

from __future__ import annotations

from collections.abc import Sequence

from curbside.scratch import Scratch

__all__ = ["DigestRows", "check_digests"]

#: Bytes of a SHA-256.
_WIDTH = 32

_SCHEMA = """
CREATE TABLE segments (segment INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, digests BLOB);
CREATE INDEX by_size ON segments (length(digests));
CREATE TABLE rows (digest BLOB, segment INTEGER, row INTEGER,
                   PRIMARY KEY (digest, segment DESC, row)) WITHOUT ROWID;
CREATE TABLE verified (segment INTEGER, part TEXT, PRIMARY KEY (segment, part)) WITHOUT ROWID
"""


class DigestRows:
    """Digest → (segment, row); of a digest that several segments hold, the latest counts.

    A segment is a number, which grows with each, and a name.

    Raises:
        StorageError: from every method: there is no room for temporary files.
    """

    def __init__(self) -> None:
        self._held = Scratch(_SCHEMA)

    @property
    def failed(self) -> bool:
        """Whether a method has raised StorageError: what is held means nothing any more."""
        return self._held.failed

    def __len__(self) -> int:
        """Digests that can be found; looks at all rows."""
        counted = self._held.first("SELECT count(DISTINCT digest) FROM rows")
        return int(counted[0]) if counted else 0

    def add(self, name: str, digests: Sequence[str]) -> int:
        """Take up a segment with the digests of its rows; its number.

        Raises:
            ValueError: a digest is no SHA-256 in lower-case hex; nothing is taken up.
        """
        keys = check_digests(digests)
        segment = self._held.run("INSERT INTO segments VALUES (NULL, ?, ?)", name, b"".join(keys))
        # in order, since neighbours share a page
        rows = sorted((key, segment, row) for row, key in enumerate(keys))
        self._held.run_many("INSERT INTO rows VALUES (?, ?, ?)", rows)
        return segment

    def drop(self, segment: int) -> None:
        """Forget a segment; older rows of its digests count again."""
        gone = [(key, segment) for key in self._keys(segment)]
        self._held.run_many("DELETE FROM rows WHERE digest = ? AND segment = ?", gone)
        self._held.run("DELETE FROM verified WHERE segment = ?", segment)
        self._held.run("DELETE FROM segments WHERE segment = ?", segment)

    def has(self, name: str) -> bool:
        """Whether a segment of that name was taken up and not dropped."""
        return self._held.first("SELECT 1 FROM segments WHERE name = ?", name) is not None

    def name(self, segment: int) -> str:
        """A segment's name.  Raises KeyError where there is no such segment."""
        found = self._held.first("SELECT name FROM segments WHERE segment = ?", segment)
        if found is None:
            raise KeyError(segment)
        return str(found[0])

    def of(self, segment: int) -> tuple[str, ...]:
        """Digests of a segment's rows, in order."""
        return tuple(key.hex() for key in self._keys(segment))

    def verified(self, segment: int, part: str) -> bool:
        """Whether :meth:`verify` was told of a part of a segment."""
        query = "SELECT 1 FROM verified WHERE segment = ? AND part = ?"
        return self._held.first(query, segment, part) is not None

    def verify(self, segment: int, part: str) -> None:
        """Remember that a part of a segment is what it should be."""
        self._held.run("INSERT OR IGNORE INTO verified VALUES (?, ?)", segment, part)

    def small(self, rows: int) -> list[tuple[int, int]]:
        """Segments of fewer rows than that, with how many they have, the smallest first."""
        found = self._held.rows(
            "SELECT segment, length(digests) FROM segments WHERE length(digests) < ?"
            " ORDER BY length(digests), segment",
            rows * _WIDTH,
        )
        return [(segment, size // _WIDTH) for segment, size in found]

    def find(self, digest: str) -> tuple[int, int] | None:
        """Segment and row of a digest, or None."""
        try:
            (key,) = check_digests([digest])
        except ValueError:
            return None
        found = self._held.first(
            "SELECT segment, row FROM rows WHERE digest = ? ORDER BY segment DESC, row LIMIT 1", key
        )
        return None if found is None else (int(found[0]), int(found[1]))

    def _keys(self, segment: int) -> list[bytes]:
        found = self._held.first("SELECT digests FROM segments WHERE segment = ?", segment)
        raw: bytes = found[0] if found else b""
        return [raw[at : at + _WIDTH] for at in range(0, len(raw), _WIDTH)]


def check_digests(digests: Sequence[str]) -> list[bytes]:
    """As 32 bytes each.

    Raises:
        ValueError: one is no SHA-256 in lower-case hex; TypeError where one is no text.
    """
    keys = [bytes.fromhex(d) for d in digests]
    if any(len(k) != _WIDTH or k.hex() != d for k, d in zip(keys, digests, strict=True)):
        raise ValueError("not SHA-256 in lower-case hex")
    return keys
