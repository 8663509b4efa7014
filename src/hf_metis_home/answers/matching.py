"""
Whether an answer matches the gold answer: choices, yes and no, numbers, expressions, short texts.

The gold answer determines the rule: the first row that fits it.

| gold answer | matching answers |
|---|---|
| any | the same text, ignoring case, spaces, a leading article, quotes and trailing punctuation |
| a choice, `B`, `(B)` or `B. text` | `B`, `(b)`, `B.`, `B) text`, `option B`; also only the text, if the gold has it |
| `yes`, `no`, `true`, `false` | the word, possibly followed by text that does not contain the opposite |
| a number | the same number: see `quantities.py` |
| a list with digits, `1, 2` | the same elements, equally often, in any order |
| an expression | an expression that math-verify finds equal, if it is a result rather than a task |
| any other text | only the same text |

An answer must commit itself: several numbers or choices match none of them.
"""

import re
from itertools import accumulate

from .expressions import expressions_equal
from .format import AnswerFormat
from .quantities import quantities_match, read_quantity, split_unit


TAGS = AnswerFormat().tags
MAX_LENGTH = 1000  # an answer with this many characters more than the gold answer is wrong unread
MAX_EXPRESSION, MAX_DEPTH = 300, 8  # math-verify takes a second for ten nested brackets

WRAPPINGS = (
    re.compile(r"\$\$(?P<inner>[^$]+)\$\$", re.DOTALL),
    re.compile(r"\$(?P<inner>[^$]+)\$", re.DOTALL),
    re.compile(r"\\\((?P<inner>(?:(?!\\[()]).)+)\\\)", re.DOTALL),
    re.compile(r"\\\[(?P<inner>(?:(?!\\[\[\]]).)+)\\\]", re.DOTALL),
    re.compile(r"\\(?:text|mathrm|textrm|mathbf|textbf)\s*\{(?P<inner>[^{}]+)\}", re.DOTALL),
    re.compile(r"\*\*(?P<inner>[^*]+)\*\*", re.DOTALL),
    re.compile(r"`(?P<inner>[^`]+)`", re.DOTALL),
)
PREAMBLE = re.compile(
    r"(?:the )?(?:(?:final|correct|right) )?(?:answer|option|choice)(?: is)?\s*:?\s+(?=\S)", re.IGNORECASE
)
CHOICE = re.compile(r"[(\[]?(?P<label>[A-Z])[)\]]?\s*[.:]?")
CHOICE_AND_TEXT = re.compile(
    r"(?:[(\[](?P<label>[A-Z])[)\]]\s*[.:]?|(?P<open_label>[A-Z])[).:\]])\s*(?P<text>(?=.*\w)\S.*)", re.DOTALL
)
OTHER_CHOICE = re.compile(
    r"(?<![\w'])[(\[]?[A-Z](?:[).:\]]|\s*[,/&|])|(?:\bor\b|\band\b|[,/&|;])\s*[(\[]?[A-Z]\b", re.IGNORECASE
)
OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
NAMED = re.compile(r"(?P<name>[A-Za-z\\∠△θ][\w\\{}'()∠△ ]{0,29})\s*=\s*(?P<value>[^=]+)", re.DOTALL)
# Digits and signs between them are dates, times and scores, not terms.
WRITTEN_DIGITS = re.compile(r"[\d\s:/.\-–]+")
EXPRESSION = re.compile(r"\\[a-zA-Z]|[\^_=<>+*√π≤≥×÷±∞|{}\[\]]|\d\s*\(|[\w)]\s*/\s*[\w(]|[\w)]\s*-\s*[\w(]")
WORK = re.compile(r"\\(?:i+nt|oint|sum|prod|lim|binom|frac\s*\{\s*d)(?![a-zA-Z])|!")


def answers_match(answer: str, solution: str) -> bool:
    r"""
    Whether an answer matches the gold answer, by the rules of this module.

    Any text is safe as `answer`: time and memory are bounded.

    Args:
        answer (`str`):
            The final answer of a completion.
        solution (`str`):
            The gold answer, plain or in `\boxed{}`, `$...$` or answer tags.

    Raises:
        ValueError: `solution` is not text, or empty.

    Example:

    ```python
    >>> from hf_metis_home.answers.matching import answers_match

    >>> answers_match("(B) a red circle", "B"), answers_match("0.5", r"$\frac{1}{2}$"), answers_match("A or B", "B")
    (True, True, False)
    ```
    """
    gold = gold_text(solution)
    if len(answer) > MAX_LENGTH + len(solution):
        return False
    given = _bare(answer)
    return bool(given) and _match(given, gold)


def gold_text(solution: str, name: str = "`solution`") -> str:
    """A gold answer without what it is wrapped in. An error, which calls it `name`, if nothing is left."""
    if not isinstance(solution, str):
        raise ValueError(f"{name} is {solution!r}, but must be text. Give the gold answer as a string.")
    gold = solution.strip()
    if gold.startswith(TAGS[2]) and gold.endswith(TAGS[3]):
        gold = gold.removeprefix(TAGS[2]).removesuffix(TAGS[3])
    gold = _bare(gold)
    if not gold or not _normal(gold):
        raise ValueError(f"{name} is {solution!r}, which holds no answer. Give the gold answer, or drop the row.")
    return gold


def _match(given: str, gold: str) -> bool:
    if any(tag in given for tag in TAGS):
        return False
    if _normal(given) == _normal(gold):
        return True
    if len(given) > MAX_LENGTH:
        return False
    given = _bare(PREAMBLE.sub("", given, count=1) if PREAMBLE.match(given) else given)
    if _normal(given) == _normal(gold):
        return True
    if choice := CHOICE.fullmatch(gold) or CHOICE_AND_TEXT.fullmatch(gold):
        parts = choice.groupdict()
        return _chooses(given, parts["label"] or parts["open_label"], parts.get("text"))
    if _normal(gold) in OPPOSITES:
        words = re.findall(r"\w+", given.casefold())
        return bool(words) and words[0] == _normal(gold) and OPPOSITES[words[0]] not in words
    if (verdict := _quantities(given, gold)) is not None:
        return verdict
    if (verdict := _lists(given, gold)) is not None:
        return verdict
    if len(gold) > MAX_EXPRESSION or not EXPRESSION.search(_latex(gold)) or WRITTEN_DIGITS.fullmatch(gold):
        return False
    (given, unit), (gold, gold_unit) = split_unit(_latex(given)), split_unit(_latex(gold))
    units_differ = unit is not None and gold_unit is not None and unit != gold_unit
    return not units_differ and _is_a_result(given, gold) and expressions_equal(given, gold)


def _chooses(given: str, label: str, text: str | None) -> bool:
    if CHOICE.fullmatch(given.upper()):
        return CHOICE.fullmatch(given.upper())["label"] == label
    if text is not None and _normal(given) == _normal(text):
        return True
    found = CHOICE_AND_TEXT.fullmatch(given[:1].upper() + given[1:2].upper() + given[2:])
    if not found or (found["label"] or found["open_label"]) != label:
        return False
    if text is not None and _normal(found["text"]) == _normal(text):
        return True
    return not CHOICE.fullmatch(found["text"].upper()) and not OTHER_CHOICE.search(found["text"])


def _quantities(given: str, gold: str) -> bool | None:
    """Whether the answer is the gold quantity; None if the gold answer is not a quantity."""
    gold_name, gold_value = _name_and_value(gold)
    if (quantity := read_quantity(gold_value)) is None:
        return None
    name, value = _name_and_value(given)
    answer = read_quantity(re.sub(r"^(?:≈|\\approx|~)\s*", "", _bare(value)), any_unit=True)
    names_differ = gold_name is not None and name is not None and _normal(name) != _normal(gold_name)
    return answer is not None and not names_differ and quantities_match(answer, quantity)


def _name_and_value(text: str) -> tuple[str | None, str]:
    """The two sides of `x = 5`."""
    found = NAMED.fullmatch(text)
    return (found["name"].strip(), found["value"].strip()) if found else (None, text)


def _lists(given: str, gold: str) -> bool | None:
    """Whether the answer has the elements of the gold list; None if the gold answer is not a list with digits."""
    elements = _elements(gold)
    if len(elements) < 2 or not all(re.search(r"\d|\\", element) for element in elements):
        return None
    left = _elements(given)
    if len(left) != len(elements):
        return False
    for element in elements:
        found = next((other for other in left if _match(other, element)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _elements(text: str) -> list[str]:
    """The parts between commas outside brackets, `and` and `or`."""
    text, parts = re.sub(r"\s*,?\s+(?:and|or)\s+|\s*\\text\s*\{\s*(?:and|or)\s*\}\s*", ",", text), [""]
    for character, depth in zip(text, _depths(text), strict=True):
        if character in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [_bare(part) for part in parts]


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def _is_a_result(given: str, gold: str) -> bool:
    """Whether an answer is one expression, short enough to parse, and not a task that is still to be solved."""
    if len(given) > MAX_EXPRESSION or "$" in given or "\\boxed" in given or max(_depths(given), default=0) > MAX_DEPTH:
        return False
    if re.search(r"\d\s+\d|\d{21}", given):  # math-verify adds `24 1` up
        return False
    if WORK.search(given) and not WORK.search(gold):
        return False
    return given.count("=") <= gold.count("=") or ("=" not in gold and NAMED.fullmatch(given) is not None)


def _latex(text: str) -> str:
    """A text with the signs that math-verify does not know as LaTeX."""
    text = re.sub(r"√\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"√\s*(\w+)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:pi|π)(?![A-Za-z])", r"\\pi ", text)
    return text.rstrip(".,;: ").replace("°", r"^\circ ").replace("−", "-").replace("²", "^2").replace("³", "^3")


def _bare(text: str) -> str:
    """A text without the marks around all of it, and without punctuation after them."""
    text = " ".join(text.split())
    for _ in range(4):
        inner = _boxed(text)
        if inner is None:
            inner = next((found["inner"] for wrapping in WRAPPINGS if (found := wrapping.fullmatch(text))), None)
        if inner is None:
            inner = text.rstrip(".,;: ") if text.endswith(("$.", "}.", "**.", "`.")) else text
        if inner == text:
            break
        text = inner.strip()
    return text


def _boxed(text: str) -> str | None:
    r"""The inside of a `\boxed{}` around all of a text."""
    if not text.startswith("\\boxed{") or not text.endswith("}"):
        return None
    inner = text[len("\\boxed{") : -1]
    depths = list(accumulate((character == "{") - (character == "}") for character in inner))
    return inner if min(depths, default=0) == 0 and depths[-1:] in ([], [0]) else None


def _normal(text: str) -> str:
    """A text without the differences that do not count."""
    text = re.sub(r"\s*([,;:/])\s*", r"\1 ", text.casefold().replace("−", "-"))
    text = " ".join(text.split()).strip("\"'“”‘’ ")
    text = re.sub(r"(?<=[a-z]{2})[!?]+$", "", text.rstrip(".,;: "))
    return re.sub(r"^(?:the|an?) (?=[a-z])", "", text)
