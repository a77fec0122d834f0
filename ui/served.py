"""What the console's server serves: the script in ``app.py``, and each page at its own address.

Streamlit's script in the browser does not know where its server is.  Opened at ``/case`` it
looks below that address first, and the browser logs two requests that were not found.  So
pages below the root come with the answer in them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from curbside.ui.app import PAGES

__all__ = ["app"]

#: Relative to the address that was opened, so that it holds behind a proxy's prefix too.
_TOLD = "<script>window.__streamlit = {BACKEND_BASE_URL: new URL('.', location.href).href}</script>"


async def _opened(request: Request) -> HTMLResponse:
    return HTMLResponse(_page(), headers={"Cache-Control": "no-cache"})


@cache
def _page() -> str:
    """Streamlit's own page.  Raises OSError where the installation lacks it."""
    file = Path(streamlit.__file__).parent / "static" / "index.html"
    return file.read_text("utf-8").replace("<head>", f"<head>{_TOLD}", 1)


async def _at_the_root(request: Request) -> RedirectResponse:
    query = request.url.query
    return RedirectResponse(f"./?{query}" if query else "./")


_first, *_below = PAGES
app = streamlit.App(
    Path(__file__).with_name("app.py"),
    # the first page is the root itself, and has no address below it
    routes=[Route(f"/{_first}", _at_the_root), *(Route(f"/{a}", _opened) for a in _below)],
)
