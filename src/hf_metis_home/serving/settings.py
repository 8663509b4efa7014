"""What the router in front of an engine has to know. As a JSON file, because vLLM gives a middleware no arguments."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from ..modeling.configuration_metis_home import BRANCHES


SETTINGS_VARIABLE = "METIS_HOME_SERVING"  # path of the JSON file
KEY_VARIABLE = "METIS_HOME_API_KEY"  # never in the file


def api_key() -> str | None:
    """The key that clients must send; None where the variable is not set. An error where it is empty."""
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ValueError(
            f"The environment variable {KEY_VARIABLE} is set, but empty, so no client could ever send the key. Set it "
            f"to a long random word, or `unset {KEY_VARIABLE}` to serve without a key."
        )
    return key


@dataclass(frozen=True)
class ServingSettings:
    """
    Settings of [`RouterMiddleware`].

    Args:
        router (`str`):
            Folder that `metis-home export --format router` wrote; in a file, relative to the file.
        model_name (`str`, *optional*, defaults to `"metis-home"`):
            The name that clients use for the hybrid. `"auto"` means the same.
        branch_models (`dict[str, str]`, *optional*):
            What the engine calls each branch: branch to model name. By default a branch is called what it is.
        branch_by (`str`, *optional*, defaults to `"model"`):
            How the engine is told the branch. `"model"`: by the model's name (adapters of vLLM, two dense models).
            `"generation_config"`: by `thinking` in the request's `generation_config`, as `metis-home serve --engine
            transformers` reads it.
        thinking_threshold (`float`, *optional*):
            The dial where a request sets none; by default the one in the router's configuration.
        fallback (`str`, *optional*, defaults to `"non_thinking"`):
            Branch that answers where the router cannot say: it failed, was too slow, or has too much to do.
        router_device (`str`, *optional*, defaults to `"cpu"`):
            Device of the router.
        router_timeout (`float`, *optional*, defaults to 10.0):
            Seconds that a request waits for the router.
        max_pending (`int`, *optional*, defaults to 256):
            Requests that may wait for the router; further ones get the fallback at once.
        max_batch (`int`, *optional*, defaults to 8):
            Prompts that the router reads at a time.
        max_prompt_tokens (`int`, *optional*, defaults to 32768):
            Longer prompts get the fallback.
        max_body_bytes (`int`, *optional*, defaults to 33554432):
            Larger requests are refused.
        max_images (`int`, *optional*, defaults to 16):
            Images in a request.
        max_image_bytes (`int`, *optional*, defaults to 20971520):
            Bytes of an image, as it is sent or downloaded.
        max_image_pixels (`int`, *optional*, defaults to 40000000):
            Pixels of all images in a request together.
        image_timeout (`float`, *optional*, defaults to 10.0):
            Seconds for the download of an image, redirects included.
        image_hosts (`list[str]`, *optional*, defaults to `[]`):
            Hosts that images may be downloaded from although their addresses are private.

    Raises:
        ValueError: values that cannot be. All of them in one message.
    """

    router: str
    model_name: str = "metis-home"
    branch_models: dict[str, str] = field(default_factory=lambda: {branch: branch for branch in BRANCHES})
    branch_by: Literal["model", "generation_config"] = "model"
    thinking_threshold: float | None = None
    fallback: Literal["thinking", "non_thinking"] = "non_thinking"
    router_device: str = "cpu"
    router_timeout: float = 10.0
    max_pending: int = 256
    max_batch: int = 8
    max_prompt_tokens: int = 32768
    max_body_bytes: int = 32 * 2**20
    max_images: int = 16
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 40_000_000
    image_timeout: float = 10.0
    image_hosts: list[str] = field(default_factory=list)

    def __post_init__(self):
        errors = []
        if self.model_name in BRANCHES or self.model_name.startswith("auto:"):
            errors.append(
                f"`model_name` is {self.model_name!r}, which means something else to clients. Choose another."
            )
        if set(self.branch_models) != set(BRANCHES):
            errors.append(f"`branch_models` names {sorted(self.branch_models)}, but must name {list(BRANCHES)}.")
        if self.branch_by not in ("model", "generation_config"):
            errors.append(f"`branch_by` is {self.branch_by!r}, but must be 'model' or 'generation_config'.")
        if self.fallback not in BRANCHES:
            errors.append(f"`fallback` is {self.fallback!r}, but must be one of {list(BRANCHES)}.")
        threshold = self.thinking_threshold
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            errors.append(
                f"`thinking_threshold` is {threshold}, but is compared with a probability and must be in [0, 1]."
            )
        limits = ("router_timeout", "max_pending", "max_batch", "max_prompt_tokens", "max_body_bytes", "max_images")
        for name in (*limits, "max_image_bytes", "max_image_pixels", "image_timeout"):
            if getattr(self, name) <= 0:
                errors.append(f"`{name}` is {getattr(self, name)}, but must be above 0.")
        if errors:
            raise ValueError("\n".join(errors))

    @classmethod
    def from_environment(cls) -> "ServingSettings":
        """The settings in the file that the environment variable `METIS_HOME_SERVING` names."""
        path = os.environ.get(SETTINGS_VARIABLE)
        if path is None:
            raise ValueError(
                f"The environment variable {SETTINGS_VARIABLE} is not set. Set it to the path of the serving.json that "
                "`metis-home export --format vllm` wrote."
            )
        return cls.read(path)

    @classmethod
    def read(cls, path: str | Path) -> "ServingSettings":
        """The settings in a JSON file. Unknown names are errors."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{SETTINGS_VARIABLE} is {str(path)!r}, which is no file.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is no JSON: {error}") from None
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else ["no object"]
        if unknown or "router" not in values:
            raise ValueError(f"{str(path)!r} must hold an object with `router`, and may hold {known}; found {unknown}.")
        return cls(**{**values, "router": str(path.parent / values["router"])})

    def write(self, path: str | Path) -> None:
        """As [`read`] reads it."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
