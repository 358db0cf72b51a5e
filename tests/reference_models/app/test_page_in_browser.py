"""The app in a real browser: user actions, and no request to another machine."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from reference_models.errors import UserError
from reference_models.settings import read_settings
from reference_models.training.folder import CONFIG
from tests.reference_models.browser import LOCAL, check_accessibility, chromium, overflow

pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")
from reference_models.app.page import served

pytestmark = pytest.mark.browser
Connections = list[Any]
WATCHED: list[Connections] = []  # an audit hook cannot be removed, so it appends to these lists


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        for connections in WATCHED:
            connections.append(address[0] if isinstance(address, tuple) else address)


sys.addaudithook(watch)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address_of(browser: Any, runs: dict[str, Path], run_with_texts: Path) -> Iterator[Callable[[str], str]]:
    """Serve one run at a time, on demand; at the end, check that this process connected only to the local machine."""
    connections: Connections = []
    WATCHED.append(connections)
    serving: dict[str, str] = {}
    with ExitStack() as stack:

        def address_of(name: str) -> str:
            if name not in serving:
                stack.close()
                serving.clear()
                run = {**runs, "texts": run_with_texts}[name]
                page = served(run, read_settings(run / CONFIG), host="127.0.0.1", port=None)
                serving[name] = stack.enter_context(page)
            return serving[name]

        yield address_of
    WATCHED.remove(connections)
    assert connections
    assert {host for host in connections if host not in (*LOCAL, b"127.0.0.1", None)} == set()


@pytest.fixture
def visit(browser: Any, address_of: Callable[[str], str]) -> Iterator[Callable[..., Any]]:
    """Open the page of a run; at the end, check that the browser sent only local requests and met no error."""
    requested: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(name: str, *, width: int = 1280, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        contexts[-1].grant_permissions(["clipboard-read", "clipboard-write"])
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda response: errors.append(response.url) if response.status >= 400 else None)
        page.goto(address_of(name))
        page.get_by_role("button", name="Predict", exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {urlsplit(url).hostname for url in requested if not url.startswith(("data:", "blob:"))} <= set(LOCAL)
    assert errors == []


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def predict(page: Any) -> Any:
    """Press the button and return the new answer, not the previous one."""
    page.evaluate(
        "document.querySelectorAll('#answer .answer-view, #answer .problem').forEach(e => e.dataset.old = '')"
    )
    page.get_by_role("button", name="Predict", exact=True).click()
    return page.locator(":is(#answer .answer-view, #answer .problem):not([data-old])")


def choose_example(page: Any, number: int) -> Any:
    page.get_by_label("Example", exact=True).click()
    page.get_by_role("option").nth(number).click()
    return page.locator("#answer .answer-view")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
@pytest.mark.parametrize("name", ["re", "ner"])
def test_example_is_shown_and_answered(visit: Callable[..., Any], name: str, width: int, scheme: str) -> None:
    page = visit(name, width=width, scheme=scheme)
    check_accessibility(page)
    answer = choose_example(page, 1)
    headings = answer.get_by_role("heading")
    headings.first.wait_for()
    assert headings.all_inner_texts() == [
        "With the image",
        "Without the image",
        "Image and crops",
        "Attention to the images",
    ]
    first, *_ = page.get_by_label("Sentence,").input_value().split()
    assert answer.locator(".sentence").first.inner_text().startswith(first)
    boxes, crops = answer.locator("rect.box").count(), answer.locator("figure img").count()
    assert boxes == crops > 0
    assert answer.locator("table.heat tbody tr").count() >= 3
    assert overflow(page) == 0
    check_accessibility(page)


def test_theme_follows_the_colour_scheme(visit: Callable[..., Any]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page = visit("ner", scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).getPropertyValue('--body-background-fill')"))
    assert colours[0] != colours[1]


def test_uploaded_image_with_each_detector_option(visit: Callable[..., Any], image: Path) -> None:
    page = visit("ner")
    choose_example(page, 0).wait_for()
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    page.locator("input[type=file]").first.set_input_files(image)
    page.get_by_label("centre").first.wait_for()
    page.wait_for_function("document.querySelector('input[value=centre]').checked")
    page.get_by_label("Sentence,").fill("look , Ruby Vexmor again !")
    answer = predict(page)
    answer.locator("rect.box").first.wait_for()
    assert answer.locator("rect.box").count() == 3
    page.get_by_label("none", exact=True).first.check()
    answer = predict(page)
    answer.wait_for()
    assert "it did not see the image" in answer.inner_text()
    assert answer.locator("rect.box").count() == 0
    page.get_by_label("owlv2").first.check()
    alert = page.get_by_role("alert").filter(has_text="downloads nothing")
    predict(page)
    alert.wait_for()
    check_accessibility(page)


def test_image_is_pasted_from_the_clipboard(visit: Callable[..., Any]) -> None:
    page = visit("ner")
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(40, 40);
            canvas.getContext('2d').fillRect(0, 0, 40, 40);
            const image = await canvas.convertToBlob({type: 'image/png'});
            await navigator.clipboard.write([new ClipboardItem({'image/png': image})]);
        }"""
    )
    page.get_by_label("Paste from clipboard").or_(page.get_by_label("Paste Image")).first.click()
    page.get_by_role("img", name="The image of the post").wait_for()
    page.get_by_label("Sentence,").fill("look , Ruby Vexmor again !")
    answer = predict(page)
    answer.locator("rect.box").first.wait_for()


def test_invalid_post_shows_an_error(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit("ner")
    predict(page)
    page.get_by_role("alert").filter(has_text="expected a sentence of non-empty words").wait_for()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    page.locator("input[type=file]").first.set_input_files(broken)
    page.wait_for_function("document.querySelector('input[value=centre]').checked")
    page.get_by_label("Sentence,").fill("look")
    predict(page)
    page.get_by_role("alert").filter(has_text="broken.png").wait_for()


def test_relation_entities_are_entered_and_checked(visit: Callable[..., Any]) -> None:
    page = visit("re")
    page.get_by_label("Sentence,").fill("Ann Lee met Bob")
    page.get_by_label("Head entity").fill("Ann Lee")
    page.get_by_label("Tail entity").fill("Bobby")
    predict(page)
    page.get_by_role("alert").filter(has_text="the tail entity 'Bobby' is not in the sentence").wait_for()
    page.get_by_label("Tail entity").fill("Bob")
    page.get_by_label("Tail entity").press("Enter")
    page.locator("#answer .answer-view").wait_for()


def test_text_only_model_has_no_image_input(visit: Callable[..., Any]) -> None:
    page = visit("text-only")
    assert page.get_by_label("Object crops").count() == 0
    page.get_by_label("Sentence,").fill("look , Ruby Vexmor again !")
    answer = predict(page)
    answer.get_by_role("heading").first.wait_for()
    assert answer.get_by_role("heading").all_inner_texts() == ["Prediction"]


def test_a_model_of_texts_about_images_asks_for_them(visit: Callable[..., Any]) -> None:
    page = visit("texts")
    headings = choose_example(page, 1).get_by_role("heading")
    headings.first.wait_for()
    assert headings.all_inner_texts() == ["With the texts about the image", "Without the texts about the image"]
    assert page.get_by_label("Tags: text about the image").input_value()
    check_accessibility(page)
    page.get_by_label("Tags: text about the image").fill("")
    answer = predict(page)
    answer.wait_for()
    assert "This model also reads texts about the image (tags, caption), and there are none." in answer.inner_text()
    page.get_by_label("Caption: text about the image").fill("a red car")
    answer = predict(page)
    answer.get_by_text("Without the texts about the image").wait_for()


def test_file_of_posts_is_answered_and_downloaded(visit: Callable[..., Any], image: Path, tmp_path: Path) -> None:
    page = visit("ner", width=375)
    page.get_by_role("tab", name="A file of posts").click()
    page.get_by_role("button", name="Predict the file").click()
    page.get_by_role("alert").filter(has_text="expected one .jsonl file of posts").wait_for()
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"text": "look , Ruby Vex", "image": "a.png"}\n{"text": "look", "image": "gone.png"}\n')
    page.locator("input[type=file]").last.set_input_files([posts, image])
    page.get_by_text("a.png").or_(page.get_by_text("posts.jsonl")).first.wait_for()
    page.wait_for_timeout(500)  # the second file
    page.get_by_role("button", name="Predict the file").click()
    page.get_by_role("status").filter(has_text="2 posts processed, 1 with an error.").wait_for()
    check_accessibility(page)
    assert overflow(page) == 0
    button = page.get_by_role("button", name="Download").or_(page.get_by_role("link", name="Download")).first
    with page.expect_download() as download:
        button.click()
    records = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [sorted(record) for record in records] == [["entities", "line"], ["error", "line"]]


def test_page_works_with_the_keyboard_only(visit: Callable[..., Any]) -> None:
    page = visit("text-only")
    page.get_by_label("Sentence,").focus()
    page.keyboard.type("look , Ruby Vexmor again !")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText").strip() == "Predict"
    page.keyboard.press("Enter")
    page.locator("#answer .answer-view").wait_for()


def test_run_with_missing_data_has_no_examples(runs: dict[str, Path], tmp_path: Path, browser: Any) -> None:
    config = read_settings(runs["ner"] / CONFIG, ["--data.root", str(tmp_path / "gone")])
    with served(runs["ner"], config, host="127.0.0.1", port=None) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("No examples:").wait_for()
        assert page.get_by_label("Example", exact=True).count() == 0
        port = urlsplit(address).port
        with (
            pytest.raises(UserError, match=f"cannot be served at 127.0.0.1, port {port}"),
            served(runs["ner"], config, host="127.0.0.1", port=port),
        ):
            pass
        page.close()
