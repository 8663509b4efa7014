"""
Numbers with units: parsing and comparing.

| rule | example |
|---|---|
| a whole gold number must match exactly | `7` by `7`, `7.0`, `seven`, `14/2`; not by `7.0001` |
| a fraction must match another fraction exactly, and a decimal within tolerance | `1/3` by `2/6`, `0.33333` |
| a decimal must match within a relative 1e-4 | `0.5` by `0.50001` |
| a decimal with three or more significant digits also matches what rounds to it | `3.14` by `3.1416`, not the reverse |
| thousands separators, currency signs and powers of ten are understood | `1,200` = `$1200` = `1.2 \\times 10^3` |
| a percent sign may be missing, or the number may be the share | `50%` by `50`, `0.5`, `1/2` |
| a unit may be missing on either side; two units must be the same | `5 cm` by `5`, not by `5 m` |

Nothing is calculated: `17 * 23` does not match 391, because it may be the question.
"""

import re
from dataclasses import dataclass
from fractions import Fraction


TOLERANCE = Fraction(1, 10_000)
ROUNDING_DIGITS = 3
PERCENT = "%"

NUMBER = re.compile(
    r"""
    (?P<sign>[-+]?)\s*(?P<currency>[$€£¥₹]?)\s*
    (?:
        (?P<mixed>\d{1,9}\s+)?(?P<numerator>\d{1,18})\s*/\s*(?P<denominator>\d{1,18})
      | (?P<whole>\d{1,3}(?:,\d{3}){1,6}|\d{1,3}(?:\ \d{3}){1,6}|\d{1,30})?(?:\.(?P<decimals>\d{1,30})?)?
        (?:\s*[eE](?P<exponent>[-+]?\d{1,3}))?
    )
    \s*(?P<unit>%|[a-zµμΩ][a-zµμΩ0-9^/* ²³{}.-]{0,39})?
    """,
    re.VERBOSE | re.IGNORECASE,
)
EXPRESSION_AND_UNIT = re.compile(
    r"(?P<expression>.*(?:[\d)}]|\\pi))(?:\s*\\(?:text|mathrm)\s*\{(?P<marked>[^{}]+)\}|\s+(?P<word>[a-zA-Z]{2,}))"
    r"\s*(?P<power>\^\s*\{?[23]\}?)?"
)
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
# Unit names; the first of each group is the canonical one.
UNITS = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres", "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres", "km kilometer kilometers kilometre kilometres", "in inch inches",
        "ft foot feet", "yd yard yards", "mi mile miles", "mg", "g gram grams", "kg kilogram kilograms",
        "lb lbs pound pounds", "ms millisecond milliseconds", "s sec second seconds", "min minute minutes",
        "h hr hour hours", "day days", "week weeks", "month months", "year years", "mph", "degree degrees deg",
        "celsius", "fahrenheit", "rad radian radians", "l liter liters litre litres", "ml milliliter milliliters",
        "v volt volts", "a ampere amperes", "w watt watts", "kw", "j joule joules", "kj", "hz hertz", "pa", "kpa",
        "n newton newtons", "k kelvin", "mol mole moles", "unit units", "dollar dollars", "cent cents",
        "% percent percentage pct",
    )
    for name in names.split()
}  # fmt: skip
OFTEN_VARIABLES = set("ahjknvw")  # units only after a space: `5 N`, but not `2n`
NO_UNITS = set("or and nor not either maybe perhaps to but vs over plus minus times".split())


@dataclass(frozen=True)
class Quantity:
    """
    A number and its unit.

    Args:
        value (`Fraction`):
            The number as written, ignoring a percent sign.
        unit (`str`, *optional*):
            `"%"`, a unit, or another word after the number.
        step (`Fraction`, *optional*):
            Value of one unit of a decimal's last digit; None for whole numbers and fractions.
        digits (`int`):
            Significant digits of a decimal.
    """

    value: Fraction
    unit: str | None
    step: Fraction | None
    digits: int


def read_quantity(text: str, any_unit: bool = False) -> Quantity | None:
    """
    Read a text as a quantity; None if it is not one.

    Args:
        text (`str`):
            Plain text or LaTeX without dollar signs around it.
        any_unit (`bool`, *optional*, defaults to False):
            Whether any one to three words may be a unit (`5 apples`).

    Example:

    ```python
    >>> from hf_metis_home.answers.quantities import read_quantity

    >>> read_quantity("1,200 cm").value
    Fraction(1200, 1)
    ```
    """
    text = _plain(text)
    if text in WORDS:
        return Quantity(Fraction(WORDS.index(text)), None, None, 0)
    found = NUMBER.fullmatch(text)
    if not found or not (found["numerator"] or found["whole"] or found["decimals"]):
        return None
    unit = None
    if found["unit"]:
        apart = text[found.start("unit") - 1] == " "
        unit = _unit(found["unit"], any_unit)
        if unit is None or (unit in OFTEN_VARIABLES and not (apart or any_unit)):
            return None
    step, digits = None, 0
    if found["numerator"]:
        if int(found["denominator"]) == 0:
            return None
        value = Fraction(int(found["numerator"]), int(found["denominator"])) + int(found["mixed"] or 0)
    else:
        whole, decimals = re.sub(r"[, ]", "", found["whole"] or ""), found["decimals"] or ""
        scale = Fraction(10) ** (int(found["exponent"] or 0) - len(decimals))
        value = int(whole + decimals) * scale
        if decimals:
            step, digits = scale, len((whole + decimals).lstrip("0"))
    return Quantity(-value if found["sign"] == "-" else value, unit, step, digits)


def quantities_match(answer: Quantity, gold: Quantity) -> bool:
    """Whether an answer matches the gold quantity, by the rules of this module."""
    units = {unit for unit in (answer.unit, gold.unit) if unit is not None}
    if len(units) > 1:
        return False
    values = [answer.value]
    if PERCENT in units and answer.unit != gold.unit:
        values.append(answer.value / 100 if answer.unit == PERCENT else answer.value * 100)
    return any(_close(value, answer, gold) for value in values)


def split_unit(text: str) -> tuple[str, str | None]:
    r"""An expression and the unit after it: `2\sqrt{3} cm`, `\pi \text{ m}^2`."""
    found = EXPRESSION_AND_UNIT.fullmatch(text)
    unit = (
        _unit((found["marked"] or found["word"]).strip().casefold() + (found["power"] or ""), False) if found else None
    )
    return (text, None) if unit is None else (found["expression"], unit)


def _close(value: Fraction, answer: Quantity, gold: Quantity) -> bool:
    exact = gold.step is None and (gold.value.denominator == 1 or answer.step is None)
    if exact:
        return value == gold.value
    error = abs(value - gold.value)
    rounds = gold.step is not None and gold.digits >= ROUNDING_DIGITS and error <= gold.step / 2
    return rounds or error <= TOLERANCE * abs(gold.value)


def _plain(text: str) -> str:
    """A number in LaTeX as plain text."""
    text = re.sub(r"\\d?t?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", r" \1\2/\3\4 ", text)
    text = re.sub(r"\\(?:text|mathrm|textrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[,;:! ]|~", " ", text).replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°", " degree ", text).replace("−", "-").replace("–", "-")
    text = re.sub(r"degree\s+(?:c|celsius)$", "celsius", text.strip(), flags=re.IGNORECASE)
    text = re.sub(r"\s*(?:\\times|\\cdot|×|\*|x)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?", r"e\1", text)
    text = re.sub(r"^10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?$", r"1e\1", text)
    text = " ".join(text.split()).casefold()
    text = re.sub(r"^([-+]?) (?=\d)", r"\1", text)
    return text.rstrip(" .,;:")


def _unit(text: str, any_unit: bool) -> str | None:
    """The canonical unit in a text; None if there is none."""
    text = re.sub(r"\bper\b", "/", text).replace("²", "^2").replace("³", "^3").replace("{", "").replace("}", "")
    text = re.sub(r"\bsquared?\b", "^2", text)
    if match := re.fullmatch(r"\^2 (.+)", text):
        text = f"{match[1]}^2"
    parts = re.split(r"\s*([/*·^ -])\s*", text)
    names = parts[::2]
    if all(name in UNITS or re.fullmatch(r"-?[1-3]", name) for name in names) and names[0] in UNITS:
        return "".join(UNITS.get(part, part) for part in parts)
    words = text.split()
    if any_unit and len(words) <= 3 and all(word.isalpha() for word in words) and not NO_UNITS & {*words, *WORDS}:
        return text if len(text) > 2 else None
    return None
