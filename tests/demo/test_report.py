"""The report is one file that loads nothing, keeps text as text and shows what was measured."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from hf_metis_home.demo.report import LOOKS, MODELS, _plot, write_report


NASTY = "<script>alert(1)</script> a < b & \"c\" 'd' {{ 1 + 1 }} </dd>"
LOADING = {"src", "href", "data", "poster", "srcset", "action", "xlink:href"}


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of style sheets."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.text = [], [], text
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.words += data.split()

    @property
    def shown(self) -> str:
        return " ".join(self.words)


def cell(accuracy=0.5, **values) -> dict:
    return {"accuracy": accuracy, "stderr": 0.01, "n": 400, "thinking_ratio": 0.25, "mean_tokens": 12.0, **values}


def results(**values) -> dict:
    models = {
        name: {"shapes": cell(0.1 * index), "easy": cell(0.2), "hard": cell(0.3)} for index, name in enumerate(MODELS)
    }
    return {
        "models": models,
        "statement": ["It shows this.", "It does not show that."],
        "seconds": {"train the base": 100.0, "evaluate": 20.5},
        "versions": {"torch": "1.2.3"},
        "seed": 7,
        "preset": "small",
        **values,
    }


def sample(**values) -> dict:
    facts = {"image": Image.new("RGB", (56, 56), (200, 10, 10)), "question": "which color?", "gold": "red"}
    answer = {"thinking_probability": 0.0625, "thinking": False, "thought": "", "answer": "red", "correct": True}
    return {**facts, **answer, "task": "shapes", **values}


def plots(page: Page) -> dict[str, str]:
    """Task to the SVG of its plot."""
    images = [attributes for tag, attributes in page.tags if tag == "img" and "svg+xml" in attributes["src"]]
    return {image["alt"].split()[7]: base64.b64decode(image["src"].partition(",")[2]).decode() for image in images}


@pytest.fixture
def page(tmp_path):
    def write(samples=(), **values) -> Page:
        return Page(write_report(results(**values), samples, tmp_path / "new" / "report.html").read_text("utf-8"))

    return write


def test_loads_nothing(page):
    report = page([sample()])
    for tag, attributes in report.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in LOADING & attributes.keys():
            assert attributes[name].startswith("data:") or tag == "a"
    assert "@import" not in report.text and "url(" not in report.text
    policy = next(attributes["content"] for _, attributes in report.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("field", ["question", "gold", "task", "thought", "answer"])
def test_text_of_a_sample_stays_text(page, field):
    plain, nasty = page([sample(thought="so")]), page([sample(thought="so") | {field: NASTY}])
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert " ".join(NASTY.split()) in nasty.shown


def test_text_of_the_results_stays_text(page):
    report = page(statement=[NASTY], seconds={NASTY: 1.0}, versions={NASTY: NASTY})
    assert "script" not in {tag for tag, _ in report.tags}
    assert report.shown.count("<script>alert(1)</script>") == 4


def test_shows_the_table(page):
    models = results()["models"]
    models["hybrid"]["shapes"] = cell(0.9376, stderr=0.0123, thinking_ratio=0.984, mean_tokens=26.54, n=1234)
    report = page(models=models)
    assert "93.8 ± 1.2 98 % · 26.5 tok" in report.shown
    assert "easy (pooled) n = 400" in report.shown
    assert all(title in report.shown for title, _ in MODELS.values())


def test_values_that_were_not_measured(page):
    models = results()["models"]
    models["base"]["shapes"] = cell(None, stderr=None, thinking_ratio=None, mean_tokens=float("nan"))
    del models["hybrid"]["shapes"], models["dense_mixed"]
    report = page(models=models)
    assert "– ± – – · – tok" in report.shown
    assert "Dense, mixed data" not in report.shown
    assert "None" not in report.shown and "nan" not in report.shown


def test_malformed_answers_are_shown_where_there_are_any(page):
    models = results()["models"]
    models["hybrid"]["easy"] |= {"malformed": 0.031}
    models["base"]["easy"] |= {"malformed": 0.0}
    shown = page(models=models).shown
    assert "tok · 3.1 % malformed" in shown and shown.count("% malformed") == 1


def test_several_seeds(page):
    models = results()["models"]
    models["hybrid"]["easy"]["spread"] = {"accuracy": 0.021}
    report = page(models=models, seeds=[{"seed": 7}, {"seed": 8}, {"seed": 9}])
    assert "20.0 ± 1.0 (2.1)" in report.shown
    assert "seeds 7, 8, 9" in report.shown


def test_plots_have_a_mark_per_model_and_task(page):
    report = page()
    texts = plots(report)
    assert list(texts) == ["easy", "hard"]
    for text in texts.values():
        assert all(f">{title}</text>" in text for title, _ in MODELS.values())
    keys = [attributes["style"] for _, attributes in report.tags if attributes.get("class") == "key"]
    assert keys == [f"color: var(--{color})" for _, color in LOOKS.values()] and LOOKS.keys() == MODELS.keys()


def test_marks_are_where_their_values_are():
    models = results()["models"]
    models["base"]["easy"], models["hybrid"]["easy"] = cell(1.0, mean_tokens=0.0), cell(0.0, mean_tokens=20.0)
    names = _plot(models, {name: MODELS[name] for name in ("base", "hybrid")}, "easy").axes[0].texts
    assert {name.get_text(): name.xy for name in names} == {"Base": (0.0, 100.0), "Hybrid, routed": (20.0, 0.0)}


def test_samples(page):
    report = page([sample(), sample(image=None, thinking=True, thought="one two", answer="blue", correct=False)])
    images = [attributes["src"] for tag, attributes in report.tags if tag == "img"]
    images = [image for image in images if not image.startswith("data:image/svg+xml")]
    assert len(images) == 1
    decoded = Image.open(io.BytesIO(base64.b64decode(images[0].partition(",")[2])))
    assert decoded.size == (56, 56) and decoded.getpixel((0, 0)) == (200, 10, 10)
    assert "which color? non-thinking probability 0.062 answer red ✓ right gold red" in report.shown
    assert "thinking probability 0.062 thought one two answer blue ✗ wrong gold red" in report.shown


def test_smoke_figures_are_called_meaningless(page):
    assert "numbers mean nothing" in page(preset="smoke").shown
    assert "numbers mean nothing" not in page().shown


def test_statement_and_facts(page):
    shown = page().shown
    assert "It shows this. It does not show that." in shown
    assert "train the base 100.0 evaluate 20.5 total 120.5" in shown
    assert "torch 1.2.3" in shown and "seed 7" in shown
