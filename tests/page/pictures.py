"""Pictures of the page for the docs, from a service that has the demo (`make run`):

python -m tests.page.pictures ADDRESS FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from rightrank.service.client.http import Client
from tests.page.browser import DESKTOP, PHONE, chromium, looking
from tests.service.conftest import exported, network

# What the picture of a curve has points of.
BUDGETS = (1, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)
PRECISIONS = ("float32", "float16", "int8", "auto")
SHOTS = {"list": "/", "model": "/#/model/demo", "upload": "/#/upload"}
# What is further down is left out: a picture is to be looked at.
HIGHEST = 1200
THERE = {"list": ".option.primary", "model": ".pick .stats", "upload": ".drop"}


def prepare(address: str) -> None:
    """Has sizes of the demo measured, and another model published."""
    for precision in PRECISIONS:
        for budget in BUDGETS:
            query = {"budget": budget, "precision": precision}
            httpx.get(f"{address}/models/demo", params=query, headers={"Prefer": "wait=120"}, timeout=130)
    with Client(address) as client, tempfile.TemporaryDirectory() as folder:
        if not httpx.get(f"{address}/models?search=keywords").json()["models"]:
            files = exported(network(), Path(folder))
            options = {"budgets": [1, 0.5]}
            answer = client.push(files.checkpoint, name="keywords", evaluation=files.evaluation, options=options)
            client.wait(str(answer["operation"]))
    httpx.put(f"{address}/names/demo/aliases/stable", json={"version": 1}).raise_for_status()


def shoot(page: Page, name: str, path: Path) -> None:
    expect(page.locator(THERE[name])).to_be_visible(timeout=60_000)
    if name == "list":
        page.get_by_label("Model", exact=True).select_option(label="demo@1")
        page.get_by_label("Room for the file").fill("11 kB")
        page.wait_for_timeout(1500)
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=60_000)
    page.wait_for_timeout(500)
    height = min(HIGHEST, page.evaluate("document.documentElement.scrollHeight"))
    width = page.evaluate("innerWidth")
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    print(path, path.stat().st_size)


def main(address: str, folder: Path) -> None:
    prepare(address)
    with chromium() as browser:
        for width, size, scheme in (("desktop", DESKTOP, "light"), ("phone", PHONE, "dark")):
            with looking(browser, address, size, scheme) as reader:
                for name, path in SHOTS.items():
                    shoot(reader.open(path), name, folder / f"page-{name}-{width}-{scheme}.png")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
