"""What people wrote in a card stays, byte for byte; what a command wrote is renewed while nobody touches it."""

import re

import pytest
import yaml

from hf_metis_home.hub_templates.card_merge import merge_card, new_card, read_metadata, write_card


METADATA = {"library_name": "transformers", "tags": ["metis-home"], "base_model": "a/base"}
SECTIONS = {"about": "# Title\n\nText.", "use": "## Use\n\n```python\nrun()\n```", "end": "## End"}


def card() -> str:
    return new_card(METADATA, SECTIONS)


def section(text: str, name: str) -> str:
    return re.search(rf"<!-- metis-home:{name} \w+ -->\n\n(.*?)\n\n<!-- /metis-home:{name} -->", text, re.S)[1]


def test_a_new_card():
    text = card()
    assert read_metadata(text) == METADATA
    assert [section(text, name) for name in SECTIONS] == list(SECTIONS.values())
    assert merge_card(text, METADATA, SECTIONS) == (text, [])


def test_what_stands_outside_stays():
    text = (
        card().replace("<!-- metis-home:use", "My *own* words — ü.\n\n<!-- metis-home:use") + "\n## Thanks\n\nto all\n"
    )
    merged, kept = merge_card(text, {}, {"use": "## Use it", "end": "## The end"})
    assert kept == [] and section(merged, "use") == "## Use it" and section(merged, "end") == "## The end"
    assert section(merged, "about") == SECTIONS["about"]
    assert "<!-- /metis-home:about -->\n\nMy *own* words — ü.\n\n<!-- metis-home:use" in merged
    assert merged.endswith("<!-- /metis-home:end -->\n\n## Thanks\n\nto all\n")
    assert merge_card(merged, {}, {"use": "## Use it", "end": "## The end"})[0] == merged


def test_a_section_that_somebody_changed_stays():
    text = card().replace("run()", "run(carefully=True)")
    merged, kept = merge_card(text, {}, {**SECTIONS, "use": "## Use it", "end": "## The end"})
    assert kept == ["use"] and "run(carefully=True)" in section(merged, "use") and "## The end" in merged
    assert merge_card(text, {}, {"use": section(text, "use")})[1] == []  # says what we would say


def test_sections_come_and_go():
    merged, _ = merge_card(card(), {}, {"use": SECTIONS["use"], "results": "## Results", "end": ""})
    assert "metis-home:end" not in merged
    assert merged.index("/metis-home:use") < merged.index("metis-home:results") and section(merged, "results")
    first, _ = merge_card(merged, {}, {"first": "one", "use": SECTIONS["use"]})
    assert first.index("metis-home:first") < first.index("metis-home:about")
    changed = card().replace("## End", "## My end")
    assert merge_card(changed, {}, {"end": ""}) == (changed, ["end"])


@pytest.mark.parametrize(
    "theirs", ["", "# Mine\n\nMy text.\n", "---\nlicense: mit\nlanguage: en\n---\n# Mine\n\nMy text.\n"]
)
def test_a_card_that_has_nothing_of_ours(theirs):
    merged, _ = merge_card(theirs, METADATA, SECTIONS)
    data = read_metadata(merged)
    assert data == {**read_metadata(theirs), **METADATA}
    body = merged.split("---\n", 2)[2]
    assert body.lstrip("\n").startswith("# Mine\n\nMy text.\n" if theirs else "<!-- metis-home:about")
    assert [section(merged, name) for name in ("use", "end")] == [SECTIONS["use"], SECTIONS["end"]]
    assert len(re.findall(r"^# ", merged, re.M)) == 1  # one title
    assert merge_card(merged, METADATA, SECTIONS) == (merged, [])
    again, kept = merge_card(merged, METADATA, {"use": "## Other"})
    assert section(again, "use") == "## Other" and kept == []


def test_a_comment_in_code_is_no_title():
    theirs = "```python\n# a comment\n```\n\nMy text.\n"
    assert "\n# Title\n" in merge_card(theirs, METADATA, SECTIONS)[0]


def test_metadata():
    theirs = {
        "license": "mit", "tags": ["mine"], "base_model": "b/mine", "library_name": "other",
        "model-index": [{"name": "m", "results": [index("theirs", 1), index("ours", 2)]}], "widget": [{"text": "hi"}],
    }  # fmt: skip
    text = f"---\n{yaml.safe_dump(theirs, sort_keys=False)}---\n# Mine\n"
    ours = {**METADATA, "license": "apache-2.0", "model-index": [{"name": "n", "results": [index("ours", 3)]}]}
    data = read_metadata(merge_card(text, ours, {})[0])
    assert data["license"] == "mit" and data["base_model"] == "b/mine" and data["widget"] == [{"text": "hi"}]
    assert data["library_name"] == "transformers" and data["tags"] == ["mine", "metis-home"]
    assert data["model-index"] == [{"name": "m", "results": [index("theirs", 1), index("ours", 3)]}]
    assert list(data)[0] == "license"  # in their order
    assert read_metadata(merge_card(text, ours, {}, renew=["license"])[0])["license"] == "apache-2.0"


def index(name: str, value: float) -> dict:
    return {
        "task": {"type": "t"},
        "dataset": {"type": name, "name": name},
        "metrics": [{"type": "accuracy", "value": value}],
    }


def test_empty_values_of_theirs_stay():
    merged = merge_card("---\nlicense_link:\nlicense: mit\n---\n# Mine\n", METADATA, {})[0]
    assert read_metadata(merged) == {"license_link": None, "license": "mit", **METADATA}


def test_front_matter_that_needs_no_change_keeps_its_form():
    text = "---\n# a comment\ntags:   [metis-home]   \n---\n# Mine\n"
    assert merge_card(text, {"tags": ["metis-home"]}, {})[0] == text


def test_line_ends_of_the_file_stay(tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes(b"\xef\xbb\xbf" + card().replace("\n", "\r\n").encode() + b"mine\r\n")
    assert write_card(path, {}, {"use": "## One\n\n## Two"}) == []
    written = path.read_bytes()
    assert b"## One\r\n\r\n## Two\r\n" in written and written.endswith(b"mine\r\n")
    assert b"\n" not in written.replace(b"\r\n", b"") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("front", ["tags: [a", "- a"])
def test_metadata_that_cannot_be_read_is_not_lost(tmp_path, front):
    path = tmp_path / "README.md"
    path.write_text(f"---\n{front}\n---\n# Mine\n")
    with pytest.raises(ValueError, match=r"(?s)README.md has unreadable metadata: .* Fix the lines between"):
        write_card(path, METADATA, SECTIONS)
    assert path.read_text() == f"---\n{front}\n---\n# Mine\n"
