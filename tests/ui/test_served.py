"""Pages at their own addresses: what the browser is told, and where the first page is."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from curbside.ui.app import PAGES
from curbside.ui.served import app


@pytest.fixture(scope="module")
def client():
    from starlette.applications import Starlette

    # the routes alone: Streamlit's runtime is not started
    return TestClient(Starlette(routes=app._user_routes), follow_redirects=False)


@pytest.mark.parametrize("address", list(PAGES)[1:])
def test_a_page_below_the_root_knows_its_server(client, address):
    answer = client.get(f"/{address}?case=a")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    head = answer.text.split("<head>", 1)[1]
    assert head.startswith("<script>window.__streamlit = {BACKEND_BASE_URL:")
    assert '<div id="root">' in answer.text


def test_the_first_page_is_the_root(client):
    first = next(iter(PAGES))
    assert client.get(f"/{first}?status=answered&q=a%26b").headers["location"] == (
        "./?status=answered&q=a%26b"
    )
    assert client.get(f"/{first}").headers["location"] == "./"
