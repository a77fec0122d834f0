"""What a page says, and whom the worklist shows."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def words(app: AppTest) -> str:
    """All that a page says, as one string."""
    parts = [e.value if hasattr(e, "value") else "" for e in app.main]
    parts += [e.proto.body for e in app.get("html") if "<style>" not in e.proto.body]
    parts += [b.label for b in app.button]
    return " ".join(str(p) for p in parts)


def rows(app: AppTest) -> list[str]:
    """Study ids of the worklist, in order."""
    return [p.proto.label.strip("`") for p in app.get("page_link") if "study-" in p.proto.label]
