"""
Serving: one model name, one threshold, and a header that says which branch answered, in front of an engine.

`RouterMiddleware` is an ASGI middleware: inside vLLM (`vllm serve --middleware
hf_metis_home.serving.RouterMiddleware`), or around `Proxy` in front of any server that speaks the OpenAI protocol.
The engine does the generating.
"""

from importlib import import_module


_EXPORTS = {
    "Proxy": "proxy",
    "RouterMiddleware": "middleware",
    "ServingSettings": "settings",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return __all__
