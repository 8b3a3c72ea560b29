from __future__ import annotations

import re

from tests.service.conftest import Running


def test_the_page_needs_nothing_from_elsewhere(shared: Running) -> None:
    page = shared.client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page.text)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_everything_the_page_asks_for_is_there(shared: Running, demo: str) -> None:
    page = shared.client.get("/").text
    for path in ("/models?limit=20", "/models/${model.id}`", "/models/${model.id}/curve", "/docs"):
        assert path in page
        assert shared.client.get(path.strip("`").replace("${model.id}", demo)).status_code == 200


def test_no_answer_of_the_service_becomes_markup(shared: Running) -> None:
    assert not re.findall(r"innerHTML|outerHTML|document\.write|insertAdjacentHTML", shared.client.get("/").text)
