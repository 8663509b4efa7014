"""
What a request asks for: a branch, or the router's choice at a threshold, and what the router has to read.

A body is read once, checked, and written anew for the engine, so that both see the same: parts of messages keep the
fields that are known here, and of a name that stands twice in an object only the last one is left.
"""

import json
import re
from dataclasses import dataclass, field

from ..modeling.configuration_metis_home import BRANCHES
from .errors import RequestError
from .settings import ServingSettings


AUTO = "auto"
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image_url", "input_image")
NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


@dataclass
class Prompt:
    """What the router reads: the messages of a chat with what the template takes, or a plain text, or its tokens."""

    messages: list[dict] | None = None
    template_kwargs: dict = field(default_factory=dict)
    text: str | None = None
    tokens: list[int] | None = None
    pixels: int = 0  # of all images
    size: int = 0  # bytes of everything else


@dataclass
class Request:
    """
    Args:
        body (`dict`): The request; images are replaced in place.
        branch (`str`, *optional*): The branch that it names; None: the router decides.
        threshold (`float`, *optional*): Its own dial.
        prompt (`Prompt`): For the router.
        images (`list[dict]`): The `image_url` objects of the body, in the order of the prompt.
    """

    body: dict
    branch: str | None = None
    threshold: float | None = None
    prompt: Prompt = field(default_factory=Prompt)
    images: list[dict] = field(default_factory=list)


def read_request(path: str, data: bytes, settings: ServingSettings) -> Request:
    """
    Check a body and read what it asks for.

    Raises:
        RequestError: a body that is no JSON object, an unknown model, messages of another form, too many images.
    """
    try:
        body = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestError(400, "The body must be a JSON object.", code="invalid_json")
    request = Request(body)
    request.branch, request.threshold = _read_model(body.get("model"), settings)
    if path == "/v1/completions":
        _read_completion(request)
    else:
        _read_chat(request, settings)
    request.prompt.size = len(data) - sum(len(image["url"]) for image in request.images)
    return request


def written(request: Request, branch: str, settings: ServingSettings) -> bytes:
    """The body for the engine, which names the branch."""
    body = {**request.body, "model": settings.branch_models[branch]}
    if settings.branch_by == "generation_config":
        config = _generation_config(body.get("generation_config"))
        body["generation_config"] = json.dumps({**config, "thinking": branch == "thinking"})
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, RecursionError):  # 1e999
        raise RequestError(400, "The body has a number that is none.", code="invalid_json") from None


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON")


def _generation_config(text) -> dict:
    if text is None:
        return {}
    try:
        config = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise RequestError(400, "`generation_config` must be the text of a JSON object.", "generation_config")
    return config


def _read_model(name, settings: ServingSettings) -> tuple[str | None, float | None]:
    """Branch and threshold of a model's name."""
    if name in (None, AUTO, settings.model_name):
        return None, None
    if isinstance(name, str) and name in BRANCHES:
        return name, None
    if isinstance(name, str) and name.startswith(f"{AUTO}:"):
        number = name.removeprefix(f"{AUTO}:")
        if len(number) > 32 or not NUMBER.fullmatch(number) or not 0.0 <= float(number) <= 1.0:
            raise RequestError(
                400,
                "`model` sets a threshold that is no number in [0, 1]. Write auto:0.35, say: a query goes to the "
                "thinking branch where the router's probability is at least this.",
                "model",
                "invalid_threshold",
            )
        return None, float(number)
    known = ", ".join([settings.model_name, AUTO, f"{AUTO}:THRESHOLD", *BRANCHES])
    raise RequestError(404, f"There is no such `model`. There are {known}.", "model", "model_not_found")


def _read_completion(request: Request) -> None:
    prompt = request.body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        request.prompt.text = prompt
    elif isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        request.prompt.tokens = prompt
    elif request.branch is None:
        raise RequestError(
            400,
            "`prompt` must be one text, or the tokens of one, for the router to read. For several, name a branch as "
            "`model`, or send one request for each.",
            "prompt",
        )


def _read_chat(request: Request, settings: ServingSettings) -> None:
    body = request.body
    kwargs = body.get("chat_template_kwargs")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise RequestError(400, "`chat_template_kwargs` must be an object.", "chat_template_kwargs")
    _read_enable_thinking(request, (kwargs or {}).get("enable_thinking"))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "`messages` must be a list of at least one message.", "messages")
    body["messages"] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(400, f"`{where}` must be an object with a `role`.", where)
        read = _read_content(message.get("content"), f"{where}.content", request.images)
        body["messages"].append({**message, "content": read})
        if len(request.images) > settings.max_images:
            raise RequestError(400, f"There are more than {settings.max_images} images.", "messages", "too_many_images")
    request.prompt.template_kwargs = {
        **(kwargs or {}),
        "tools": body.get("tools"),
        "add_generation_prompt": body.get("add_generation_prompt", True) is not False,
        "continue_final_message": body.get("continue_final_message") is True,
    }


def _read_enable_thinking(request: Request, enabled) -> None:
    name = "chat_template_kwargs.enable_thinking"
    if enabled is None:
        return
    if not isinstance(enabled, bool):
        raise RequestError(400, f"`{name}` must be true, false or null.", name)
    asked = "thinking" if enabled else "non_thinking"
    if request.branch not in (None, asked):
        raise RequestError(
            400, f"`model` names the branch {request.branch}, but `{name}` the other one. Leave one of them out.", name
        )
    request.branch = asked


def _read_content(content, where: str, images: list[dict]):
    """A message's content with the fields that are known, the same for router and engine."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(400, f"`{where}` must be a text or a list of parts.", where)
    return [_read_part(part, f"{where}[{number}]", images) for number, part in enumerate(content)]


def _read_part(part, where: str, images: list[dict]) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXT_PARTS:
        if not isinstance(part.get("text"), str):
            raise RequestError(400, f"`{where}.text` must be a text.", where)
        return {"type": "text", "text": part["text"]}
    if kind in IMAGE_PARTS:
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if not isinstance(url, str):
            raise RequestError(400, f"`{where}.image_url` must be an object with a `url`.", where)
        images.append({"url": url})
        return {"type": "image_url", "image_url": images[-1]}
    raise RequestError(400, f"`{where}` must be a text or an image (`image_url`); nothing else is read here.", where)


def router_messages(request: Request) -> list[dict]:
    """The messages as the processor's template takes them; images as the data URLs that the engine gets too."""
    messages = []
    for message in request.body["messages"]:
        content = message["content"]
        parts: list[dict] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        read = [
            {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else dict(part)
            for part in parts
        ]
        messages.append({**message, "content": read})
    return messages
