"""
Writes `docs/api/`: one page per public package, from the docstrings. `make reference` runs it; a test demands that the
pages are those of the code.

Zensical renders docstrings through mkdocstrings, for which each lazily exported name would have to be spelled out, and
the pages could not be read in the repository. So they are plain Markdown, made here.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from dataclasses import is_dataclass
from pathlib import Path

import hf_metis_home


DOCS = Path(__file__).parents[1] / "docs"
# Public names that stand in a module and not in the `__all__` of its package.
MORE = {
    "answers": ["matching.answers_match"],
    "data": ["build.build_data", "endpoint.EndpointRollouts", "mixing.mix_datasets", "prompt_sets.PromptSet"],
    "evaluation": [
        "outcomes.collect_outcomes", "outcomes.read_outcomes", "outcomes.write_outcomes", "metrics.evaluate_outcomes",
        "calibration.calibrate_threshold", "calibrated_model.calibrate_model", "generation_callback.GenerationCallback",
    ],
    "reports": ["report.write_report"],
    "trainers": ["fit_router.fit_router", "fit_router.RouterFit"],
}  # fmt: skip
SECTION = re.compile(r"^(Args|Parameters|Returns|Yields|Raises|Example):$")


def packages() -> list[str]:
    """The public packages inside this one: those with an `__all__` or an entry in `MORE`."""
    found = [name for _, name, ispkg in pkgutil.iter_modules(hf_metis_home.__path__) if ispkg]
    return [
        name for name in found if name in MORE or hasattr(importlib.import_module(f"hf_metis_home.{name}"), "__all__")
    ]


def pages() -> dict[str, str]:
    """Name of every page and its text."""
    members = {package: _members(package) for package in packages()}
    links = {name: f"{package}.md#{name.lower()}" for package, found in members.items() for name, _ in found}
    found = {f"{package}.md": _page(package, members[package], links) for package in members}
    return {"index.md": _index(members, links), **found}


def _members(package: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"hf_metis_home.{package}")
    found = [(name, getattr(module, name)) for name in getattr(module, "__all__", [])]
    for path in MORE.get(package, []):
        where, name = path.rsplit(".", 1)
        found.append((name, getattr(importlib.import_module(f"hf_metis_home.{package}.{where}"), name)))
    return found


def _index(members: dict, links: dict) -> str:
    lines = [
        "# Names",
        "",
        "Made from the docstrings by `make reference`. These can be imported from `hf_metis_home`:",
        "",
    ]
    lines += ["| name | |", "|---|---|"]
    for name in hf_metis_home.__all__:
        if name in links:
            lines.append(f"| [`{name}`]({links[name]}) | {_summary(getattr(hf_metis_home, name), links)} |")
        else:
            lines.append(f"| `{name}` | version of the package |")
    lines += ["", "Every package with its public names:", ""]
    for package, found in members.items():
        lines.append(f"- [`hf_metis_home.{package}`]({package}.md): " + ", ".join(f"`{name}`" for name, _ in found))
    return "\n".join(lines) + "\n"


def _summary(thing, links: dict) -> str:
    return _prose((thing.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "), links)


def _page(package: str, members: list, links: dict) -> str:
    module = importlib.import_module(f"hf_metis_home.{package}")
    links = {name: link.removeprefix(f"{package}.md") for name, link in links.items()}
    parts = [f"# hf_metis_home.{package}", _prose(inspect.cleandoc(module.__doc__), links)]
    for name, thing in members:
        home = module.__name__ if name in getattr(module, "__all__", []) else thing.__module__
        parts += [f"## {name}", *_entry(thing, links, f"from {home} import {name}\n\n\n")]
        if not inspect.isclass(thing):
            continue
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and not method.startswith("_") and function.__doc__:
                parts += [f"### {name}.{method}", *_entry(function, links)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(thing, links: dict, imported: str = "") -> list[str]:
    if not callable(thing):
        return [f"`{thing!r}`"]
    if not thing.__module__.startswith("hf_metis_home."):
        library, where = thing.__module__.partition(".")[0], f"from {thing.__module__} import {thing.__name__}"
        return [f"{library}'s own, unchanged: `{where}`."]
    return [f"```python\n{imported}{_signature(thing)}\n```", _markdown(inspect.cleandoc(thing.__doc__ or ""), links)]


def _signature(thing) -> str:
    """As it is written in the source, up to the body; of a class with an `__init__` of its own that one's too."""
    source = textwrap.dedent(inspect.getsource(thing))
    node = ast.parse(source).body[0]
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    while lines[-1].lstrip().startswith("#"):  # a comment before the body
        lines.pop()
    text = re.sub(r"  # (fmt: skip|type: ignore.*)$", "", "\n".join(lines).rstrip())
    if inspect.isclass(thing) and "__init__" in vars(thing) and not is_dataclass(thing):
        return text + "\n" + textwrap.indent(_signature(thing.__init__), "    ")
    return text + " ..."


def _markdown(doc: str, links: dict) -> str:
    """A docstring as Markdown: sections in bold, arguments as a list, examples as they are."""
    blocks = [(None, [])]
    for line in doc.splitlines():
        if match := SECTION.match(line):
            blocks.append((match[1], []))
            continue
        if line and not line.startswith(" ") and blocks[-1][0] not in (None, "Example"):
            blocks.append((None, []))  # text again, after a section
        blocks[-1][1].append(line)
    parts = []
    for title, lines in blocks:
        text = textwrap.dedent("\n".join(lines)).strip("\n")
        if title is None:
            parts.append(_prose(text, links))
        elif title == "Example":
            parts += ["**Example**", text.replace("```python\n>>>", "```pycon\n>>>")]
        elif title in ("Args", "Parameters"):
            parts += [f"**{title}**", _arguments(text, links)]
        else:
            parts += [f"**{title}**", _prose(text, links)]
    return "\n\n".join(part for part in parts if part)


def _arguments(text: str, links: dict) -> str:
    items = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            head = re.match(r"([\w, ]+?)( \(.*\))?:(.*)$", line)
            names = ", ".join(f"`{name.strip()}`" for name in head[1].split(","))
            items.append(f"- {names}{head[2] or ''}:{head[3]}")
        elif line.strip():
            items.append("  " + line.strip())
    return _prose("\n".join(items), links)


def _prose(text: str, links: dict) -> str:
    """References in the style of Hugging Face ([`Name`], [`~module.Name`]) as links where the name is on a page."""

    def reference(match: re.Match) -> str:
        name = match[1].removeprefix("~").rsplit(".", 1)[-1]
        return f"[`{name}`]({links[name]})" if name in links else f"`{name}`"

    return re.sub(r"\[`([~\w.]+)`\](?!\()", reference, text)


def main() -> None:
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(texts)} pages to docs/api. Next: make docs")


if __name__ == "__main__":
    main()
