from __future__ import annotations

import re

import pytest

from rightrank.service.api.pages import PAGE
from tests.service.conftest import Running

# What turns text into elements, scripts or styles.
MARKUP = (
    r"innerHTML|outerHTML|document\.write|insertAdjacentHTML|createContextualFragment|DOMParser|setHTML|srcdoc"
    r"|eval\(|Function\("
)
OURS = sorted(name for name in PAGE.files if name.endswith(".js") and "uplot" not in name)


def text(name: str) -> str:
    return PAGE.files[name].plain.decode()


def test_the_page_needs_nothing_from_elsewhere(shared: Running) -> None:
    page = shared.client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and not re.findall(r"https?:|\*", policy)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert address.startswith(("/", "#")) and not address.startswith("//")
    named = [text(name) for name in OURS] + [text("style.css")]
    assert not [each for file in named for each in re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"'`]+", file)]


def test_nothing_of_the_page_is_inline(shared: Running) -> None:
    page = shared.client.get("/").text
    assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)


def test_all_that_the_page_is_made_of_is_served(shared: Running) -> None:
    page = shared.client.get("/").text
    addresses = re.findall(r'(?:src|href)="(/page/[^"]+)"', page)
    assert len(addresses) >= 5
    for address in addresses:
        answer = shared.client.get(address)
        assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    imported = {found for name in OURS for found in re.findall(r'from "\./([\w.]+)"', text(name))}
    assert imported <= set(OURS) and set(OURS) - imported == {"main.js"}


@pytest.mark.parametrize(
    "path",
    ["/models?limit=20", "/models/{}", "/models/{}/curve?precision=int8&format=torchscript", "/models/{}/sizes",
     "/models/{}/plan?budget=1", "/operations", "/names/demo", "/openapi.json", "/docs"],
)  # fmt: skip
def test_everything_the_page_asks_for_is_there(shared: Running, demo: str, path: str) -> None:
    assert shared.client.get(path.format(demo)).status_code == 200


@pytest.mark.parametrize("name", OURS)
def test_no_answer_of_the_service_becomes_markup(name: str) -> None:
    assert not re.findall(MARKUP, text(name))


def test_a_key_is_kept_for_the_tab_and_is_in_no_address() -> None:
    everything = "".join(map(text, OURS))
    assert not re.findall(r"localStorage|document\.cookie|indexedDB", everything)
    assert [name for name in OURS if "sessionStorage" in text(name)] == ["key.js"]
    assert [name for name in OURS if "Bearer ${" in text(name)] == ["key.js"]


@pytest.mark.parametrize("library", ["uplot/uPlot.iife.min.js", "uplot/uPlot.min.css"])
def test_what_others_wrote_comes_as_they_wrote_it(library: str) -> None:
    assert PAGE.files[library].plain
