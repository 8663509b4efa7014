"""The reference is that of the code, and has every public name."""

import importlib
import pkgutil
import re

import hf_metis_home
from scripts import reference

from .pages import ROOT


API = ROOT / "docs" / "api"


def test_pages_are_those_of_the_docstrings():
    found = {path.name: path.read_text(encoding="utf-8") for path in API.glob("*.md")}
    made = reference.pages()
    assert found.keys() == made.keys(), "run `make reference`"
    assert [name for name, text in made.items() if found[name] != text] == [], "run `make reference`"


def test_every_public_name_is_there():
    text = "\n".join(path.read_text(encoding="utf-8") for path in API.glob("*.md"))
    headings = set(re.findall(r"^## (\w+)$", text, re.M))
    names = set(hf_metis_home.__all__) - {"__version__"}
    for module in pkgutil.iter_modules(hf_metis_home.__path__):
        if module.ispkg:
            names |= set(getattr(importlib.import_module(f"hf_metis_home.{module.name}"), "__all__", []))
    assert names - headings == set()


def test_every_function_and_class_is_described():
    for path in API.glob("*.md"):
        for entry in re.split(r"^###? ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            name, *lines = entry.splitlines()
            prose = re.sub(r"```python\n.*?```", "", "\n".join(lines), flags=re.S).strip()
            assert prose, f"{path.name}: {name} has no docstring"


def test_a_docstring_as_markdown():
    doc = """
Takes apart.

More of it, with [`upcycle`] and [`~transformers.Trainer`].

Args:
    text (`str`, *optional*, defaults to `""`):
        What is read.
    first, second ([`upcycle`]):
        Two
        lines.

Returns:
    [`upcycle`].

Text after it.

Example:

```python
>>> take("a")
'a'
```
""".strip()
    assert (
        reference._markdown(doc, {"upcycle": "c.md#upcycle"})
        == """
Takes apart.

More of it, with [`upcycle`](c.md#upcycle) and `Trainer`.

**Args**

- `text` (`str`, *optional*, defaults to `""`):
  What is read.
- `first`, `second` ([`upcycle`](c.md#upcycle)):
  Two
  lines.

**Returns**

[`upcycle`](c.md#upcycle).

Text after it.

**Example**

```pycon
>>> take("a")
'a'
```
""".strip()
    )
