"""The page in a browser: what a publisher and the owner of a device do on it, from the first click to a file that runs.

Needs Debian's Chromium (apt-get install chromium), g++, Playwright and axe-core, so `make test-page` runs it in an
environment apart.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Browser, Download, Page, Route, expect
from safetensors.torch import load_file, save_file

from rightrank.models.progress import silent
from rightrank.service.run import demo
from tests.cpp import printed
from tests.page.browser import DESKTOP, PATIENCE, PHONE, Looking, chromium, looking, publish, service
from tests.service.api.test_auth import line

AXE = Path("build/page/axe/package/axe.min.js")
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
MARKUP = '<img src=x onerror="window.hurt=1"><b>bold</b>'
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a trained network and its data."""
    folder = tmp_path_factory.mktemp("demo")
    demo.build(folder, silent)
    return folder


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[str]:
    """A service with one model, of which some sizes in two precisions are measured."""
    with service(tmp_path_factory.mktemp("service")) as found:
        publish(found, files / "demo.pt2", name="digits", options={"effort": "refit", "budgets": [1, 0.5, 0.2]})
        for precision in ("float32", "int8"):
            for budget in (1, 0.5, 0.2):
                query = {"budget": budget, "precision": precision}
                httpx.get(
                    f"{found}/models/digits", params=query, headers={"Prefer": "wait=120"}, timeout=130
                ).raise_for_status()
        yield found


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Looking]:
    with looking(browser, address) as found:
        yield found


def accuracy(path: Path, data: Path) -> float:
    """What the file at `path` gets right, by torch alone."""
    model, arrays = torch.jit.load(path), load_file(data)
    with torch.inference_mode():
        right: float = (model(arrays["inputs"]).argmax(1) == arrays["targets"]).double().mean().item()
    return right


def saved(page: Page, click: Callable[[], None], folder: Path) -> Path:
    """The file that a click downloads."""
    with page.expect_download(timeout=PATIENCE) as waiting:
        click()
    download: Download = waiting.value
    path = folder / download.suggested_filename
    download.save_as(path)
    return path


def figure(page: Page, term: str) -> str:
    """One of the figures of what is picked."""
    return (
        page.locator(".pick .stat", has=page.locator("dt", has_text=re.compile(f"^{term}$")))
        .locator(".figure")
        .inner_text()
    )


def settled(page: Page) -> None:
    """Waits until what is picked is shown."""
    expect(page.locator(".pick")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".pick .stats")).to_be_visible()


def steps(page: Page, count: int, key: str) -> None:
    """Moves the slider by the keyboard, and waits for what it then stands at."""
    before = page.locator(".reading").inner_text()
    page.locator("input[type=range]").focus()
    for _ in range(count):
        page.keyboard.press(key)
    expect(page.locator(".reading")).not_to_have_text(before)
    page.wait_for_timeout(400)
    settled(page)


@SIZES
def test_a_network_is_uploaded_watched_chosen_and_fetched(
    browser: Browser, files: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with service(tmp_path / "service") as address, looking(browser, address, size) as reader:
        page = reader.open()
        page.get_by_role("link", name="Publish a model").click()
        page.get_by_label("Checkpoint").set_input_files(files / "demo.pt2")
        page.get_by_label("Evaluation").set_input_files(files / "evaluation.safetensors")
        page.get_by_label("Calibration").set_input_files(files / "calibration.safetensors")
        page.get_by_label("Name").fill("mine")
        page.get_by_label("Precision").select_option("int8")
        page.get_by_role("button", name="Publish").click()
        expect(page.locator("[data-operation]")).to_contain_text("mine: being published")
        page.get_by_role("link", name="Open mine").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("mine@1")
        settled(page)
        # By the slider to a size that nobody measured, which is measured by a click.
        steps(page, 1, "ArrowLeft")
        page.wait_for_timeout(500)
        if page.get_by_role("button", name="Measure it").count():
            page.get_by_role("button", name="Measure it").click()
        expect(page.locator(".pick .stat dt", has_text="top1")).to_be_visible()
        path = saved(page, page.locator(".pick").get_by_role("button", name="Download").click, tmp_path)
        assert figure(page, "File") == f"{path.stat().st_size:,} B"
        assert figure(page, "top1") == f"{100 * accuracy(path, files / 'evaluation.safetensors'):.1f} %"
        assert path.suffix == ".pt"


@SIZES
def test_the_right_file_is_one_click_away(
    browser: Browser, address: str, files: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with looking(browser, address, size) as reader:
        page = reader.open()
        page.get_by_label("Room for the file").fill("60 kB")
        best = page.locator(".option.primary")
        expect(best.get_by_role("heading")).to_contain_text("kB")
        expect(page.locator(".result")).to_have_attribute("aria-busy", "false")
        path = saved(page, best.get_by_role("button", name="Download").click, tmp_path)
        assert path.stat().st_size <= 60_000
        assert (
            best.locator(".big").inner_text() == f"top1 {100 * accuracy(path, files / 'evaluation.safetensors'):.1f} %"
        )
        expect(page.locator(".honest").first).to_contain_text("int8 of everything")


def test_from_the_list_it_is_three_clicks(reader: Looking, tmp_path: Path) -> None:
    page = reader.open()
    page.get_by_role("link", name="digits@1").click()
    settled(page)
    before = figure(page, "File")
    canvas = page.locator(".canvas canvas")
    expect(canvas).to_have_attribute("role", "img")
    # The largest file is the mark furthest to the right.
    curve = httpx.get(f"{reader.address}/models/digits/curve").json()["points"]
    assert len(curve) >= 3
    box = canvas.bounding_box()
    assert box is not None
    tip = page.locator(".tip")
    for across in range(int(box["width"]) - 14, 60, -3):
        for down in range(20, int(box["height"]) - 60, 12):
            page.mouse.move(box["x"] + across, box["y"] + down)
            if tip.is_visible():
                break
        else:
            continue
        break
    words = tip.inner_text()
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("before => document.querySelector('.pick .figure').textContent !== before", arg=before)
    settled(page)
    assert words.startswith("float32 original") and figure(page, "File") == f"{curve[-1]['bytes']:,} B"
    path = saved(page, page.locator(".pick").get_by_role("button", name="Download").click, tmp_path)
    assert path.stat().st_size == curve[-1]["bytes"]


def test_every_stop_of_the_slider_is_a_size_that_the_model_can_have(reader: Looking) -> None:
    page = reader.open("/#/model/digits?precision=int8&bytes=40000")
    settled(page)
    for key in ("Home", "ArrowRight", "ArrowRight", "End"):
        steps(page, 1, key)
        shown = int(figure(page, "File").removesuffix(" B").replace(",", ""))
        planned = httpx.get(
            f"{reader.address}/models/digits/plan", params={"max_bytes": shown, "precision": "int8"}
        ).json()
        assert (planned["bytes"], f"{planned['params']:,}") == (shown, figure(page, "Parameters"))
        assert page.locator(".layers li .figures:not(.quiet)").count() == len(planned["layers"])


def test_the_lines_name_exactly_what_is_picked(reader: Looking) -> None:
    page = reader.open("/#/model/digits")
    settled(page)
    shown = int(figure(page, "File").removesuffix(" B").replace(",", ""))
    url = re.search(r"'(http[^']+)'", page.get_by_role("tabpanel").inner_text())
    assert url is not None
    assert int(httpx.head(url[1], timeout=60).headers["Content-Length"]) == shown
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("torch.jit.load")
    page.get_by_role("tab", name="C++").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("torch::jit::load")
    page.get_by_role("tab", name="ONNX Runtime").click()
    page.get_by_role("button", name="Show the model as onnx").click()
    expect(page.get_by_label("Runtime", exact=True)).to_have_value("onnx")


@pytest.mark.parametrize(("format", "tab"), [("torchscript", "Python"), ("onnx", "ONNX Runtime"), ("pt2", "Python")])
def test_the_lines_fetch_and_run_it(reader: Looking, tmp_path: Path, format: str, tab: str) -> None:
    page = reader.open(f"/#/model/digits?format={format}&precision=int8&bytes=60000")
    settled(page)
    if page.get_by_role("button", name="Measure it").count():
        page.get_by_role("button", name="Measure it").click()
        expect(page.get_by_role("button", name="Measure it")).to_have_count(0)
    for name, program in (("curl", ["sh", "-ec"]), (tab, [sys.executable, "-W", "ignore", "-c"])):
        page.get_by_role("tab", name=name, exact=True).click()
        lines = page.get_by_role("tabpanel").locator("code").inner_text()
        done = subprocess.run([*program, lines], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    assert figure(page, "File") == f"{path.stat().st_size:,} B"
    if format == "torchscript":
        page.get_by_role("tab", name="C++", exact=True).click()
        (tmp_path / "run.cpp").write_text(page.get_by_role("tabpanel").locator("code").inner_text())
        *compiling, _ = printed.lines().splitlines()
        for each in ("\n".join(compiling), "./run"):
            done = printed.shell(each, tmp_path)
            assert done.returncode == 0, done.stderr


def test_an_axis_may_be_parameters_or_multiplications(reader: Looking) -> None:
    page = reader.open("/#/model/digits")
    settled(page)
    canvas = page.locator(".canvas canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("bytes, as sent"))
    for axis in ("parameters", "multiplications"):
        page.get_by_label("Along the axis").select_option(label=axis)
        expect(canvas).to_have_attribute("aria-label", re.compile(axis))
    page.get_by_text("measured files").first.click()
    rows = page.locator(".table tbody tr")
    row = rows.last
    words = row.get_by_role("button").inner_text()
    row.get_by_role("button").click()
    expect(page.locator(".pick .figure").first).to_have_text(words)


def test_an_error_is_told_as_one_and_nothing_measured_as_nothing(
    browser: Browser, tmp_path: Path, address: str
) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 1)).eval()
    inputs = torch.randn(200, 64)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(network, (inputs[:2],), dynamic_shapes=shapes), tmp_path / "net.pt2")
    publish(address, tmp_path / "net.pt2", name="bare")
    noise = 0.1 * torch.randn(200, 1)
    save_file({"inputs": inputs, "targets": network(inputs).detach() + noise}, tmp_path / "evaluation.safetensors")
    publish(address, tmp_path / "net.pt2", name="pressure", options={"budgets": [1, 0.5]})
    with looking(browser, address) as reader:
        page = reader.open("/#/model/pressure")
        settled(page)
        label = re.compile("mse, % more than the original's against bytes")
        expect(page.locator(".canvas canvas")).to_have_attribute("aria-label", label)
        page.goto(f"{address}/#/model/bare")
        expect(page.get_by_role("heading", level=1)).to_have_text("bare@1")
        settled(page)
        assert figure(page, "Accuracy") == "unmeasured"
        assert page.get_by_role("button", name="Measure it").count() == 0
        path = saved(page, page.locator(".pick").get_by_role("button", name="Download").click, tmp_path)
        assert figure(page, "File") == f"{path.stat().st_size:,} B"


def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Browser, files: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line("ann", "admin"))
    with service(tmp_path / "service", keys) as address:
        publish(address, files / "demo.pt2", "ann-secret", name="kept", options={"budgets": [1]})
        with looking(browser, address, PHONE) as reader:
            page = reader.open()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text("A key is needed")
            dialog.get_by_label("Key").fill("wrong")
            dialog.get_by_role("button").click()
            expect(page.get_by_role("dialog")).to_contain_text("no key that this service knows")
            page.get_by_role("dialog").get_by_label("Key").fill("ann-secret")
            page.keyboard.press("Enter")
            page.get_by_role("link", name="kept@1").click()
            settled(page)
            expect(page.get_by_text("by ann")).to_be_visible()
            download = page.locator(".pick").get_by_role("button", name="Download")
            path = saved(page, download.click, tmp_path)
            assert figure(page, "File") == f"{path.stat().st_size:,} B"
            expect(page.get_by_role("tabpanel")).to_contain_text("Bearer $RIGHTRANK_KEY")
            assert "secret" not in page.url and "secret" not in page.content()
            assert page.evaluate("localStorage.length") == 0 and not reader.context.cookies()
            page.get_by_role("button", name="Forget the key").click()
            expect(page.get_by_role("dialog")).to_be_visible()
            assert page.evaluate("sessionStorage.length") == 0


def test_what_waits_is_shown_and_can_be_ended(browser: Browser, files: Path, tmp_path: Path) -> None:
    with service(tmp_path / "service", working=False) as address, looking(browser, address) as reader:
        page = reader.open()
        with httpx.Client(base_url=address) as client:
            form = {"checkpoint": ("demo.pt2", (files / "demo.pt2").read_bytes())}
            operation = client.post("/models", files=form, data={"name": "slow"}).json()["operation"]
            shown = page.locator(f"[data-operation={operation}]")
            expect(shown).to_contain_text("slow: being published")
            expect(shown).to_contain_text("waits for a worker")
            shown.get_by_role("button", name="Cancel").click()
            expect(shown).to_have_count(0)
            assert client.get(f"/operations/{operation}").json()["state"] == "cancelled"


def test_a_refused_upload_is_told_in_the_services_words(reader: Looking, tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"no archive at all")
    page = reader.open("/#/upload")
    page.get_by_label("Checkpoint").set_input_files(tmp_path / "broken.pt2")
    page.get_by_role("button", name="Publish").click()
    problem = page.get_by_role("alert")
    expect(problem).to_be_visible()
    operation = page.locator("[data-operation]").get_attribute("data-operation")
    error = httpx.get(f"{reader.address}/operations/{operation}").json()["error"]
    for member in ("title", "detail", "hint"):
        if member in error:
            expect(problem).to_contain_text(error[member])


def test_dropped_files_take_the_places_that_their_names_say(reader: Looking) -> None:
    page = reader.open("/#/upload")
    expect(page.get_by_text("Drop files here")).to_be_visible()
    dropped = page.evaluate_handle("""() => {
        const data = new DataTransfer();
        const names = ["train.npz", "latest-trained.pt2", "eval.safetensors"];
        for (const name of names) data.items.add(new File(["x"], name));
        return data;
    }""")
    page.dispatch_event(".drop", "drop", {"dataTransfer": dropped})
    assert [row.inner_text() for row in page.locator(".file").all()] == [
        "latest-trained.pt2, 1 B",
        "eval.safetensors, 1 B",
        "train.npz, 1 B",
    ]


def test_a_view_whose_answers_come_late_is_not_shown_in_the_next(reader: Looking) -> None:
    page = reader.open("/#/upload")
    expect(page.locator(".drop")).to_be_visible()
    held: list[Route] = []
    page.route("**/models?limit=20", lambda route: held.append(route))
    page.locator("nav a", has_text="Models").click()
    page.wait_for_timeout(500)
    page.locator("nav a", has_text="Publish").click()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    (late,) = held
    with page.expect_response("**/models?limit=20"):
        late.fallback()
    page.wait_for_timeout(500)
    expect(page.locator(".drop")).to_be_visible()
    expect(page.locator(".list")).to_have_count(0)


def test_a_model_that_comes_late_does_not_name_the_next_view(reader: Looking) -> None:
    page = reader.open("/#/upload")
    held: list[Route] = []
    page.route("**/models/digits", lambda route: held.append(route))
    page.evaluate("location.hash = '#/model/digits'")
    page.wait_for_timeout(500)
    page.evaluate("location.hash = '#/upload'")
    expect(page).to_have_title("Publish – RightRank")
    (late,) = held
    with page.expect_response("**/models/digits"):
        late.fallback()
    page.wait_for_timeout(500)
    expect(page).to_have_title("Publish – RightRank")


def test_a_description_that_did_not_come_is_asked_for_again(reader: Looking) -> None:
    failures = iter([{"title": "The service does not answer", "status": 503, "detail": "For a moment."}])

    def fail_once(route: Route) -> None:
        if (problem := next(failures, None)) is None:
            route.fallback()
        else:
            route.fulfill(status=503, json=problem)

    reader.context.route(re.compile(r"/models/m[0-9a-f]{24}$"), fail_once)
    page = reader.open()
    expect(page.locator(".result .problem")).to_contain_text("For a moment.")
    page.get_by_label("Room for the file").fill("60 kB")
    expect(page.locator(".option.primary")).to_be_visible()


def test_nothing_that_a_publisher_says_becomes_markup(reader: Looking) -> None:
    def poisoned(thing: Any) -> Any:
        if isinstance(thing, dict):
            return {key: poisoned(value) for key, value in thing.items()}
        if isinstance(thing, list):
            return [poisoned(value) for value in thing]
        return thing

    def poison(route: Route) -> None:
        if "/models" not in route.request.url or route.request.resource_type != "fetch":
            route.fallback()
            return
        answer = route.fetch()
        if "json" not in answer.headers.get("content-type", ""):
            route.fulfill(response=answer)
            return
        body = answer.json()
        for about in (*body.get("models", ()), body):
            if "criterion" in about:
                about |= {"names": [f"{MARKUP}@1"], "publisher": MARKUP, "notes": [MARKUP]}
                about["card"] = dict.fromkeys(("description", "license"), MARKUP) | {
                    "labels": [MARKUP] * 3,
                    "preprocessing": {MARKUP: MARKUP},
                }
        for layer in body.get("layers", ()):
            layer |= {"layer": MARKUP, "name": MARKUP, "reason": MARKUP}
        route.fulfill(status=answer.status, headers={"content-type": "application/json"}, body=json.dumps(body))

    reader.context.route("**/*", poison)
    page = reader.open()
    expect(page.locator(".list")).to_contain_text(MARKUP)
    expect(page.locator(".option.primary")).to_be_visible()
    page.goto(f"{reader.address}/#/model/digits")
    settled(page)
    for place in ("h1", ".note", ".said", ".layers"):
        expect(page.locator(place).first).to_contain_text(MARKUP)
    assert page.locator("main b, main img").count() == 0
    assert page.evaluate("window.hurt") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@SIZES
def test_axe_finds_nothing_serious(browser: Browser, address: str, size: tuple[int, int], scheme: str) -> None:
    with looking(browser, address, size, scheme) as reader:
        for path, there in (("/", ".option.primary"), ("/#/model/digits", ".pick .stats"), ("/#/upload", ".drop")):
            page = reader.open(path)
            expect(page.locator(there)).to_be_visible()
            page.wait_for_timeout(500)
            for summary in page.locator("summary").all():
                summary.click()
            page.evaluate(AXE.read_text())
            found = page.evaluate("axe.run().then(found => found.violations)")
            bad = [
                (each["id"], [node["html"] for node in each["nodes"]])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert bad == [], path


def test_the_whole_page_goes_by_the_keyboard(reader: Looking) -> None:
    page = reader.open()
    expect(page.locator(".option.primary")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    wanted = ["Model", "Room for the file", "Multiplications for a sample", "Runtime"]
    for label in wanted:
        page.keyboard.press("Tab")
        expect(page.get_by_label(label, exact=True)).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_link_shows_the_same_again(reader: Looking) -> None:
    page = reader.open("/#/model/digits")
    settled(page)
    steps(page, 1, "End")
    shown, at = figure(page, "File"), page.url
    page.goto("about:blank")
    page.goto(at)
    settled(page)
    assert figure(page, "File") == shown


def test_the_pages_of_the_api_need_nothing_from_elsewhere(reader: Looking) -> None:
    page = reader.open("/docs")
    expect(page.get_by_text("/models/{reference}/curve").first).to_be_visible()
    page.get_by_text("/healthz").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table").first).to_contain_text('"status": "ok"')
