"""The page of the service, driven in a headless Chromium as its users drive it."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("playwright.sync_api", reason="the extra qwafer[browser] is not installed")

from playwright import sync_api as playwright

from tests.serving_factory import MAPS, Client, made_registry, made_release, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
TOKEN = "open sesame"
HOSTILE = "<img src=x onerror=\"document.title='stolen'\"><script>document.title='stolen'</script>"
PIXELS = """(canvas) => {
  const {width, height} = canvas;
  const flat = Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data);
  return [height, width, flat];
}"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: Any) -> Iterator[Client]:
    registry = made_registry(tmp_path_factory.mktemp("line"), made_release(), "1.0.0")
    with running(registry, audit=1.0, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(client: Client, browser: Any) -> Iterator[Any]:
    """The page with the token typed in; no test may leave an error of a script behind."""
    context = browser.new_context()
    found = context.new_page()
    found.set_default_timeout(10_000)
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(f"http://127.0.0.1:{client.port}/")
    found.fill("#token", TOKEN)
    yield found
    assert errors == []
    context.close()


def shown(page: Any, selector: str) -> Any:
    """What can be said of an element, which is waited for."""
    return playwright.expect(page.locator(selector))


def drawn(canvas: Any) -> np.ndarray:
    """The dies that a canvas shows: transparent, blue, red."""
    height, width, flat = canvas.evaluate(PIXELS)
    colours = np.array(flat).reshape(height, width, 4)
    return np.where(colours[..., 3] == 0, 0, np.where(colours[..., 0] > colours[..., 2], 2, 1))


def answer_of(page: Any) -> dict[str, Any]:
    page.wait_for_selector("#answer:not([hidden])")
    return json.loads(page.inner_text("#answer pre"))


def test_a_pasted_map_is_drawn_with_its_answer(page: Any, client: Client) -> None:
    wafer = MAPS.maps[5]
    page.fill("#map", json.dumps(wafer.tolist()))
    page.fill("#wafer", "WF-1")
    page.click("#classify")
    found = answer_of(page)
    assert (found["wafer_id"], found["model_version"]) == ("WF-1", "1.0.0")
    assert client.service.store.version_of(found["answer_id"], "WF-1") == "1.0.0", "the answer is on disk"
    np.testing.assert_array_equal(drawn(page.query_selector("#answer canvas")), wafer)
    shown(page, "#version").to_have_text("1.0.0")


@pytest.mark.parametrize("fortran", [False, True])
def test_an_npy_file_is_uploaded(page: Any, tmp_path: Path, fortran: bool) -> None:
    wafer = MAPS.maps[6][3:, :-5]
    file = io.BytesIO()
    np.save(file, np.asfortranarray(wafer) if fortran else np.ascontiguousarray(wafer))
    page.set_input_files(
        "#file", {"name": "wafer.npy", "mimeType": "application/octet-stream", "buffer": file.getvalue()}
    )
    shown(page, "#map").not_to_have_value("")
    assert json.loads(page.input_value("#map")) == wafer.tolist()
    page.click("#classify")
    answer_of(page)
    np.testing.assert_array_equal(drawn(page.query_selector("#answer canvas")), wafer)


@pytest.mark.parametrize("array", [np.ones((4, 4)), np.ones((2, 4, 4), np.uint8), np.ones((4, 4), bool)])
def test_a_file_that_is_no_map_is_refused_in_words(page: Any, array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    page.set_input_files("#file", {"name": "x.npy", "mimeType": "application/octet-stream", "buffer": file.getvalue()})
    shown(page, "#error").to_have_text("the file must hold one map (H, W) of uint8")
    assert page.input_value("#map") == ""


def test_the_queue_is_worked_off(page: Any, client: Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    numbers = [
        client("POST", "/classify", {"wafer_id": f"Q-{i}", "wafer_map": MAPS.maps[i].tolist()}, **headers)[1][
            "answer_id"
        ]
        for i in range(2)
    ]
    page.click("#refresh")
    item = page.wait_for_selector(f".item:has-text('Q-1 (answer {numbers[1]},')")
    np.testing.assert_array_equal(drawn(item.query_selector("canvas")), MAPS.maps[1])
    item.query_selector("button:text-is('Donut')").click()
    shown(page, "#queue").not_to_contain_text(f"answer {numbers[1]},")
    shown(page, "#queue").to_contain_text(f"answer {numbers[0]},")
    window = client.service.store.window()
    assert window.labels[window.ids == numbers[1]].tolist() == ["Donut"]
    client.service.store.close()


def test_what_clients_send_is_shown_as_text(page: Any, client: Client) -> None:
    form = {"wafer_id": HOSTILE, "lot_id": HOSTILE, "wafer_map": MAPS.maps[0].tolist()}
    assert client("POST", "/classify", form, Authorization=f"Bearer {TOKEN}")[0] == 200
    page.click("#refresh")
    page.wait_for_selector(".item:has-text('onerror')")
    page.fill("#wafer", HOSTILE)
    page.fill("#map", json.dumps(MAPS.maps[0].tolist()))
    page.click("#classify")
    assert answer_of(page)["wafer_id"] == HOSTILE
    assert page.title() == "qwafer"
    assert page.query_selector("#queue img, #queue script, #answer img") is None


def test_without_the_token_nothing_is_shown(client: Client, page: Any) -> None:
    page.fill("#token", "another")
    page.click("#refresh")
    shown(page, "#error").to_have_text("send Authorization: Bearer TOKEN")
    page.fill("#map", "[[0, 1], [2, 3]]")
    page.fill("#token", TOKEN)
    page.click("#classify")
    shown(page, "#error").to_contain_text("a map must hold 0")
    page.fill("#map", "[[0, 1")
    page.click("#classify")
    shown(page, "#error").to_contain_text("JSON")
