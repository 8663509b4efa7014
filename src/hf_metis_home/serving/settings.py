"""Settings of the router in front of an engine. They come from a JSON file: vLLM passes middleware no arguments."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..modeling.configuration_metis_home import BRANCHES


SETTINGS_VARIABLE = "METIS_HOME_SERVING"  # path of the JSON file
KEY_VARIABLE = "METIS_HOME_API_KEY"  # never in the file
AUTO = "auto"

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def api_key() -> str | None:
    """The key that clients must send, None if the variable is not set. An empty one is an error."""
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ValueError(
            f"{KEY_VARIABLE} is set, but empty. Set it to a long random word, or `unset {KEY_VARIABLE}` to use no key."
        )
    return key


def _known(branch: str) -> str:
    if branch not in BRANCHES:
        raise ValueError(f"but must be one of {list(BRANCHES)}")
    return branch


def _not_taken(name: str) -> str:
    if name in BRANCHES or name.startswith(f"{AUTO}:"):
        raise ValueError("which means something else to clients. Choose another name")
    return name


Branch = Annotated[str, AfterValidator(_known)]


class ServingSettings(BaseModel):
    """
    Settings of [`RouterMiddleware`].

    Args:
        router (`str` or `Path`):
            Folder that `metis-home export --format router` wrote; in a file, relative to the file.
        model_name (`str`, *optional*, defaults to `"metis-home"`):
            Name that clients use for the hybrid. `"auto"` always works too.
        branch_models (`dict[str, str]`, *optional*):
            The engine's model name for each branch; by default the branch's own name.
        branch_by (`str`, *optional*, defaults to `"model"`):
            How the engine learns the branch. `"model"`: by the model's name (adapters of vLLM, two dense models).
            `"generation_config"`: by `thinking` in the request's `generation_config`, as `metis-home serve --engine
            transformers` reads it.
        thinking_threshold (`float`, *optional*):
            Threshold for requests that set none; by default the one in the router's configuration.
        fallback (`str`, *optional*, defaults to `"non_thinking"`):
            Branch that answers when routing fails, times out or is overloaded.
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
            Bytes of an image, as sent or downloaded.
        max_image_pixels (`int`, *optional*, defaults to 40000000):
            Pixels of all images in a request together.
        image_timeout (`float`, *optional*, defaults to 10.0):
            Seconds for the download of an image, including redirects.
        image_hosts (`list[str]`, *optional*, defaults to `[]`):
            Hosts that images may be downloaded from even though their addresses are private.

    Raises:
        ValueError: invalid values or unknown names, all of them in one message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    router: str | Path
    model_name: Annotated[str, AfterValidator(_not_taken)] = "metis-home"
    branch_models: Annotated[dict[Branch, str], Field(min_length=len(BRANCHES))] = {
        branch: branch for branch in BRANCHES
    }
    branch_by: Literal["model", "generation_config"] = "model"
    thinking_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    fallback: Branch = "non_thinking"
    router_device: str = "cpu"
    router_timeout: Seconds = 10.0
    max_pending: Count = 256
    max_batch: Count = 8
    max_prompt_tokens: Count = 32768
    max_body_bytes: Count = 32 * 2**20
    max_images: Count = 16
    max_image_bytes: Count = 20 * 2**20
    max_image_pixels: Count = 40_000_000
    image_timeout: Seconds = 10.0
    image_hosts: list[str] = []

    def __init__(self, /, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError("\n".join(_explain(each) for each in error.errors())) from None

    @classmethod
    def from_environment(cls) -> "ServingSettings":
        """The settings in the file that the environment variable `METIS_HOME_SERVING` names."""
        path = os.environ.get(SETTINGS_VARIABLE)
        if path is None:
            raise ValueError(
                f"{SETTINGS_VARIABLE} is not set. Set it to the serving.json of a `metis-home export --format vllm`."
            )
        return cls.read(path)

    @classmethod
    def read(cls, path: str | Path) -> "ServingSettings":
        """The settings in a JSON file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{SETTINGS_VARIABLE} is {str(path)!r}, which is not a file.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from None
        if not isinstance(values, dict) or not isinstance(values.get("router"), str):
            raise ValueError(f"{str(path)!r} must hold a JSON object with `router`, the path of a router's folder.")
        return cls(**{**values, "router": str(path.parent / values["router"])})

    def write(self, path: str | Path) -> None:
        """As [`read`] reads it."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _explain(error) -> str:
    """A sentence for an error of pydantic."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a setting. Remove it; the settings are {', '.join(ServingSettings.model_fields)}."
    if error["type"] == "missing":
        return f"`{name}` is missing. Pass it."
    reason = re.sub(r"^\w+ should", "but should", error["msg"].removeprefix("Value error, "))
    return f"`{name}` is {error['input']!r}, {reason}."
