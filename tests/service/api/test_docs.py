from __future__ import annotations

import re

from rightrank.service.api.docs import SWAGGER
from tests.service.conftest import Running


def test_the_apis_pages_need_nothing_from_elsewhere(shared: Running) -> None:
    page = shared.client.get("/docs")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {address.rsplit("/", 1)[-1] for address in addresses} == {
        "data:,",
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "start.js",
    }
    for address in addresses:
        assert address == "data:," or shared.client.get(address).status_code == 200


def test_they_show_this_services_description(shared: Running) -> None:
    assert '"/openapi.json"' in SWAGGER.files["start.js"].plain.decode()
    assert shared.client.get("/openapi.json").json()["info"]["title"] == "RightRank"


def test_nothing_of_it_is_inline(shared: Running) -> None:
    assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", shared.client.get("/docs").text)
