"""
The body of a request: which branch it asks for, or at which threshold the router decides, and what the router reads.

A body is read once, checked, and written again for the engine, so that router and engine see the same: parts of
messages keep only the fields that are known here, and of a name that occurs twice in an object the last one counts.
"""

import json
import re
from dataclasses import dataclass, field

from ..modeling.configuration_metis_home import BRANCHES
from .errors import RequestError
from .settings import AUTO, ServingSettings


TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image_url", "input_image")
NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


@dataclass
class Prompt:
    """What the router reads: a chat's messages and what its template takes, or the text or tokens of a completion."""

    messages: list[dict] | None = None
    template_kwargs: dict = field(default_factory=dict)
    completion: str | list[int] | None = None
    pixels: int = 0  # of all images
    size: int = 0  # bytes of everything else


@dataclass
class RequestBody:
    """
    Args:
        fields (`dict`): The request as it was sent; images are replaced in place.
        branch (`str`, *optional*): The branch that it names; None: the router decides.
        threshold (`float`, *optional*): The router's threshold: the request's, else that of the settings.
        prompt ([`Prompt`]): For the router.
        images (`list[dict]`): The `image_url` objects of `fields`, in the order of the prompt.
    """

    fields: dict
    branch: str | None = None
    threshold: float | None = None
    prompt: Prompt = field(default_factory=Prompt)
    images: list[dict] = field(default_factory=list)

    @classmethod
    def read(cls, path: str, data: bytes, settings: ServingSettings) -> "RequestBody":
        """
        Check a body and read what it asks for.

        Raises:
            RequestError: a body that is not a JSON object, an unknown model, malformed messages, too many images.
        """
        fields = _json_object(data)
        if fields is None:
            raise RequestError(400, "The body must be a JSON object.", code="invalid_json")
        body = cls(fields)
        body.branch, body.threshold = _read_model(fields.get("model"), settings)
        if path == "/v1/completions":
            body._read_completion()
        else:
            body._read_chat(settings)
        body.prompt.size = len(data) - sum(len(image["url"]) for image in body.images)
        return body

    def for_engine(self, branch: str, settings: ServingSettings) -> bytes:
        """The body as the engine gets it, which names the branch."""
        fields = {**self.fields, "model": settings.branch_models[branch]}
        if settings.branch_by == "generation_config":
            given = fields.get("generation_config")
            config = {} if given is None else _json_object(given)
            if config is None:
                raise RequestError(400, "`generation_config` must be a JSON object as a string.", "generation_config")
            fields["generation_config"] = json.dumps({**config, "thinking": branch == "thinking"})
        try:
            return json.dumps(fields, allow_nan=False).encode()
        except (ValueError, RecursionError):  # NaN, 1e999
            raise RequestError(400, "The body has NaN or an infinite number. Remove it.", code="invalid_json") from None

    def _read_completion(self) -> None:
        prompt = self.fields.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        tokens = isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt)
        if isinstance(prompt, str) or tokens:
            self.prompt.completion = prompt
        elif self.branch is None:
            text = "`prompt` must be one text or its tokens. Send one request for each, or name a branch as `model`."
            raise RequestError(400, text, "prompt")

    def _read_chat(self, settings: ServingSettings) -> None:
        fields = self.fields
        kwargs = fields.get("chat_template_kwargs")
        if kwargs is not None and not isinstance(kwargs, dict):
            raise RequestError(400, "`chat_template_kwargs` must be an object.", "chat_template_kwargs")
        self._read_enable_thinking((kwargs or {}).get("enable_thinking"))
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError(400, "`messages` must be a list of at least one message.", "messages")
        fields["messages"] = []
        for number, message in enumerate(messages):
            where = f"messages[{number}]"
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise RequestError(400, f"`{where}` must be an object with a `role`.", where)
            content = message.get("content")
            if isinstance(content, list):
                content = [_read_part(part, f"{where}.content[{at}]", self.images) for at, part in enumerate(content)]
            elif content is not None and not isinstance(content, str):
                raise RequestError(400, f"`{where}.content` must be a text or a list of parts.", f"{where}.content")
            fields["messages"].append({**message, "content": content})
            if len(self.images) > settings.max_images:
                text = f"The request has more than {settings.max_images} images. Send fewer."
                raise RequestError(400, text, "messages", "too_many_images")
        # Copies of the messages, because the processor may write to them; images are replaced in both.
        self.prompt.messages = [{**message, "content": message["content"] or []} for message in fields["messages"]]
        self.prompt.template_kwargs = {
            **(kwargs or {}),
            "tools": fields.get("tools"),
            "add_generation_prompt": fields.get("add_generation_prompt", True) is not False,
            "continue_final_message": fields.get("continue_final_message") is True,
        }

    def _read_enable_thinking(self, enabled) -> None:
        if enabled is None:
            return
        name = "chat_template_kwargs.enable_thinking"
        if not isinstance(enabled, bool):
            raise RequestError(400, f"`{name}` must be true, false or null.", name)
        asked = "thinking" if enabled else "non_thinking"
        if self.branch not in (None, asked):
            text = f"`model` names the branch {self.branch}, but `{name}` the other one. Leave one of them out."
            raise RequestError(400, text, name)
        self.branch = asked


def _json_object(text: str | bytes) -> dict | None:
    """The JSON object in a text; None if the text is anything else."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_model(name, settings: ServingSettings) -> tuple[str | None, float | None]:
    """Branch, or threshold for the router, that a model's name asks for."""
    if name in (None, AUTO, settings.model_name):
        return None, settings.thinking_threshold
    if isinstance(name, str) and name in BRANCHES:
        return name, None
    if isinstance(name, str) and name.startswith(f"{AUTO}:"):
        number = name.removeprefix(f"{AUTO}:")
        if len(number) > 32 or not NUMBER.fullmatch(number) or not 0.0 <= float(number) <= 1.0:
            text = "The threshold in `model` must be a number in [0, 1], as in auto:0.35."
            raise RequestError(400, text, "model", "invalid_threshold")
        return None, float(number)
    known = ", ".join([settings.model_name, AUTO, f"{AUTO}:THRESHOLD", *BRANCHES])
    raise RequestError(404, f"Unknown `model`. Use one of {known}.", "model", "model_not_found")


def _read_part(part, where: str, images: list[dict]) -> dict:
    """A part of a message with known fields only."""
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
    raise RequestError(400, f"`{where}` must be a part of type `text` or `image_url`.", where)
