"""The Space in a browser: what a visitor sees, types and clicks."""

import shutil
import time

import pytest
from PIL import Image

from hf_metis_home.hub_templates import write_space

from .browser import PRESENT, Browser
from .space_common import ANSWERS, QUESTION, THOUGHT, make_space, red_square
from .space_server import link_requirements, serve


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PRESENT, reason="needs a browser: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    space = make_space(folder)
    names = [*(space / "requirements.txt").read_text().split(), "gradio"]
    found = link_requirements(names, folder / "site")
    assert "torch" in found and found.isdisjoint({"hf-metis-home", "accelerate", "peft", "trl", "datasets"})
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serve(folder / "space", folder / "site") as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def page(browser, address):
    browser.size(1200, 900)
    browser.dark(False)
    browser.requests(), browser.complaints()
    browser.open(address)
    browser.wait("document.querySelector('#ask') && document.querySelector('#question textarea')")
    yield browser
    assert browser.run("return document.title") == "A <i>small</i> model"  # no answer has run as a script
    assert browser.run("return document.querySelectorAll('.branch img, .branch script').length") == 0
    elsewhere = [url for url in browser.requests() if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []


def value(branch: str, part: str) -> str:
    """JavaScript for the text in a box."""
    return f"document.querySelector('#{branch}-{part} textarea')?.value"


def shown(selector: str) -> str:
    """JavaScript for whether an element can be seen."""
    return f"(document.querySelector('{selector}')?.getBoundingClientRect().height ?? 0) > 0"


def decision(page) -> str:
    return page.run("return document.querySelector('#decision').innerText")


def choose(page, place: int) -> None:
    page.click(f"#mode label:nth-of-type({place + 1})")


def test_a_question_its_thought_and_the_dial(page):
    assert not page.run(f"return {shown('#thinking')}") and not page.run(f"return {shown('#non-thinking')}")
    page.type("#question textarea", QUESTION)
    page.type("#threshold input[type=number]", "0")
    page.click("#ask")
    page.wait(f"{value('thinking', 'answer')} === {ANSWERS[True]!r}")
    assert "The router chose the thinking branch" in decision(page)
    assert "at or above the threshold of 0.000" in decision(page)
    assert "tokens · " in page.run("return document.querySelector('#thinking-counter').innerText")
    assert not page.run(f"return {shown('#non-thinking')}")

    assert not page.run(f"return {shown('#thinking-thought textarea')}")  # folded
    page.click("#thinking-fold button")
    page.wait(shown("#thinking-thought textarea"))
    assert page.run(f"return {value('thinking', 'thought')}") == THOUGHT

    page.type("#threshold input[type=number]", "1")
    page.click("#ask")
    page.wait(f"{value('non-thinking', 'answer')} === {ANSWERS[False]!r}")
    assert "The router chose the non-thinking branch" in decision(page)
    assert not page.run(f"return {shown('#thinking')}")


def test_the_visitor_decides(page):
    ranges = "document.querySelector('#threshold input[type=range]').disabled"
    assert not page.run(f"return {ranges}")
    choose(page, 2)
    page.wait(ranges)
    page.type("#question textarea", QUESTION)
    page.click("#ask")
    page.wait(f"{value('non-thinking', 'answer')} === {ANSWERS[False]!r}")
    assert "You chose the non-thinking branch" in decision(page)
    choose(page, 0)
    page.wait(f"!{ranges}")


def test_a_picture_and_both_branches(page, tmp_path):
    red_square().save(tmp_path / "red.png")
    page.upload("#image input[type=file]", tmp_path / "red.png")
    page.wait("document.querySelector('#image img')")
    page.type("#question textarea", QUESTION)
    page.click("#compare")
    page.wait(f"{value('thinking', 'answer')} === {ANSWERS[True]!r}")
    assert page.run(f"return {value('non-thinking', 'answer')}") == ANSWERS[False]
    places = [page.run(f"return document.querySelector('#{name}').getBoundingClientRect().toJSON()") for name in
              ("thinking", "non-thinking")]  # fmt: skip
    assert places[0]["top"] == places[1]["top"] and places[0]["right"] < places[1]["left"]
    assert "Both branches answer" in decision(page)


def test_an_example(page):
    page.click(".examples-holder tbody tr, .gallery button, #component-examples button, table tbody tr")
    page.wait("document.querySelector('#question textarea').value.includes('bars')")
    page.wait("document.querySelector('#image img')?.naturalWidth === 448")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.png", b"<html><script>document.title='broken'</script></html>", "cannot be read as an image"),
        ("picture.png", None, "more than 25 million pixels"),
        ("large.png", bytes(11 * 2**20), "exceed the maximum allowed size of 10"),
    ],
)
def test_a_bad_file_gets_a_sentence_and_the_server_lives_on(page, tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        Image.new("1", (6000, 6000)).save(path)
    else:
        path.write_bytes(content)
    page.upload("#image input[type=file]", path)
    page.type("#question textarea", QUESTION)
    if name != "large.png":
        page.wait("document.querySelector('#image img')")
        page.click("#ask")
    page.wait(f"/{message}/.test(document.querySelector('.toast-body')?.innerText)")
    page.open(page.run("return location.href"))
    page.wait("document.querySelector('#question textarea')")
    page.type("#question textarea", QUESTION)
    choose(page, 2)
    page.click("#ask")
    page.wait(f"{value('non-thinking', 'answer')} === {ANSWERS[False]!r}")


def test_a_question_that_is_refused(page):
    page.type("#question textarea", "<|im_end|>")
    page.click("#ask")
    page.wait(
        "document.querySelector('.toast-body')?.innerText.includes('<|im_end|> is reserved for the chat template')"
    )


def test_stop(folder, browser):
    """With a model that knows no end of an answer, and one request at a time: the next one does not wait for it."""
    shutil.copytree(folder / "hybrid", folder / "endless")
    (folder / "endless" / "generation_config.json").write_text("{}")
    space = write_space(str(folder / "endless"), folder / "endless-space")
    with serve(space, folder / "site") as address:
        browser.open(address)
        browser.wait("document.querySelector('#question textarea')")
        counted = "parseInt(document.querySelector('#{}-counter')?.innerText)"
        for branch, place in (("thinking", 1), ("non-thinking", 2)):
            choose(browser, place)
            browser.type("#question textarea", QUESTION)
            browser.click("#ask")
            browser.wait(f"{counted.format(branch)} > 90")
            browser.click("#stop")
            time.sleep(1)
            stopped = browser.run(f"return {counted.format(branch)}")
            time.sleep(1)
            assert browser.run(f"return {counted.format(branch)}") == stopped < 2048
            assert "Error" not in browser.run("return document.body.innerText")


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_wide_and_narrow(page, tmp_path, dark):
    page.dark(dark)
    for width in (1200, 390):
        page.size(width, 900, phone=width < 500)
        page.open(page.run("return location.href"))
        page.wait("document.querySelector('#question textarea')")
        page.type("#question textarea", QUESTION)
        page.click("#compare")
        page.wait(f"{value('thinking', 'answer')} === {ANSWERS[True]!r}")
        assert page.run("return document.documentElement.scrollWidth") <= width
        with Image.open(page.screenshot(tmp_path / f"{width}.png")) as image:
            corner = image.convert("L").getpixel((2, 2))
            assert corner < 60 if dark else corner > 200
            assert len(image.convert("RGB").getcolors(1 << 24)) > 100
