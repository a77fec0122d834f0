"""What a page says."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def words(app: AppTest) -> str:
    """All that a page says, as one string."""
    parts = [e.value if hasattr(e, "value") else "" for e in app.main]
    parts += [e.proto.body for e in app.get("html") if "<style>" not in e.proto.body]
    parts += [b.label for b in app.button]
    return " ".join(str(p) for p in parts)
