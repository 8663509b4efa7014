"""
Serving: one model name, one threshold, and a header that says which branch answered, in front of an engine.

`RouterMiddleware` is an ASGI middleware: inside vLLM (`vllm serve --middleware
hf_metis_home.serving.RouterMiddleware`), or around `Proxy` in front of any server that speaks the OpenAI protocol.
The engine does the generating.
"""

from .._lazy import lazy_exports


__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"middleware": ["RouterMiddleware"], "proxy": ["Proxy"], "settings": ["ServingSettings"]}
)
