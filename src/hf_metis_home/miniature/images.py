"""
Small real images: easy-vqa's shapes (MIT), scikit-learn's handwritten digits (BSD-3) and words in DejaVu Sans.

Splits share no source image: easy-vqa's own test images are the test split, the last tenth of its training images is
dev; each of the 1,797 digits and each word belongs to one split.
"""

import random
from functools import cache
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .model import IMAGE_SIZE


SPLITS = ("train", "dev", "test")
CELL = IMAGE_SIZE // 2  # one visual token
SHAPES = ("circle", "rectangle", "triangle")


@cache
def digit_cells(split: str) -> dict[int, list[np.ndarray]]:
    """Handwritten digits of a split, by value, as `uint8` arrays of 28 x 28 pixels, white on black."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    bounds = {"train": (0, 1297), "dev": (1297, 1497), "test": (1497, 1797)}[split]
    cells: dict[int, list[np.ndarray]] = {digit: [] for digit in range(10)}
    for index in order[slice(*bounds)]:
        image = Image.fromarray((data.images[index] * 255 / 16).astype(np.uint8))
        cells[int(data.target[index])].append(np.asarray(image.resize((CELL, CELL), Image.Resampling.BILINEAR)))
    return cells


def digit_grid(digits: list[int], split: str, rng: random.Random) -> Image.Image:
    """Four handwritten digits in reading order, one per quarter of the image."""
    cells = [rng.choice(digit_cells(split)[digit]) for digit in digits]
    return Image.fromarray(np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])).convert("RGB")


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 22)


def word_of(split: str, rng: random.Random) -> str:
    """Four letters. The letters determine the split of a word."""
    while True:
        word = "".join(rng.choice(ascii_lowercase) for _ in range(4))
        place = sum(ord(letter) * 31**index for index, letter in enumerate(word)) % 10
        if split == {8: "dev", 9: "test"}.get(place, "train"):
            return word


def word_image(word: str, rng: random.Random) -> Image.Image:
    """Four letters in reading order, one per quarter of the image, each shifted by up to two pixels."""
    image = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    draw = ImageDraw.Draw(image)
    for index, letter in enumerate(word):
        center = [CELL * (index % 2) + CELL / 2, CELL * (index // 2) + CELL / 2]
        draw.text([c + rng.randint(-2, 2) for c in center], letter, fill=255, font=_font(), anchor="mm")
    return image.convert("RGB")


@cache
def shape_questions(split: str) -> list[tuple[str, str, int]]:
    """easy-vqa's questions of a split: question, answer, image number."""
    import easy_vqa

    questions = easy_vqa.get_test_questions() if split == "test" else easy_vqa.get_train_questions()
    rows = zip(*questions, strict=True)
    return [row for row in rows if split == "test" or (row[2] >= 3600) == (split == "dev")]


@cache
def shape_captions() -> list[tuple[str, int]]:
    """`"<colour> <shape>"` of easy-vqa's training images, from their questions: caption, image number."""
    found: dict[int, dict[str, str]] = {}
    for question, answer, image in shape_questions("train"):
        if question.startswith("what"):
            found.setdefault(image, {})["shape" if answer in SHAPES else "color"] = answer
    return [(f"{f['color']} {f['shape']}", image) for image, f in sorted(found.items()) if len(f) == 2]


@cache
def shape_image(image: int, split: str) -> Image.Image:
    """One easy-vqa image, 64 x 64 pixels."""
    import easy_vqa

    folder = Path(easy_vqa.__file__).parent / "data" / ("test" if split == "test" else "train") / "images"
    return Image.open(folder / f"{image}.png").convert("RGB")
