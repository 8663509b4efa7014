"""Images as rows contain them: a PIL image, a path, or a dict with `bytes` and `path` as datasets stores them."""

import io

from PIL import Image


def open_image(image) -> Image.Image:
    """An image of a row, not decoded yet: its size is known, its pixels are read later."""
    if isinstance(image, dict):
        image = io.BytesIO(image["bytes"]) if image.get("bytes") else image["path"]
    return image if isinstance(image, Image.Image) else Image.open(image)


def decode_image(image) -> Image.Image:
    """An image of a row with its pixels, upright as its EXIF data says; fetched if its path is remote."""
    from datasets import Image as ImageFeature

    if isinstance(image, Image.Image):
        return image
    stored = image if isinstance(image, dict) else {"path": str(image)}
    return ImageFeature().decode_example({"bytes": stored.get("bytes"), "path": stored.get("path")})
