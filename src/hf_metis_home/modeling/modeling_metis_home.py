"""
Metis-HOME (arXiv 2510.20519) on transformers' Qwen2.5-VL: from layer `router_layer` on, each decoder layer has two
feed-forward branches, *thinking* and *non_thinking*, and a router sends each query to one of them for its whole answer.
Ships to the Hub with the weights.
"""

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

from .configuration_metis_home import MetisHomeConfig
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeModel(MetisHomeModelMixin, Qwen2_5_VLModel):
    """Vision tower, router and two-branch language model without a head: what `AutoModel` gives."""

    config: MetisHomeConfig


class MetisHomeForConditionalGeneration(MetisHomeHeadMixin, Qwen2_5_VLForConditionalGeneration):
    """
    Qwen2.5-VL with a thinking and a non-thinking branch and a router that picks one per query (arXiv 2510.20519).

    Example:

    ```python
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor

    >>> model = AutoModelForImageTextToText.from_pretrained("runs/demo/hybrid", trust_remote_code=True)
    >>> processor = AutoProcessor.from_pretrained("runs/demo/hybrid", trust_remote_code=True)
    >>> content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    >>> messages = [{"role": "user", "content": content}]
    >>> inputs = processor.apply_chat_template(
    ...     messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ... )
    >>> model.route(**inputs).thinking_probability  # one number per query
    >>> model.generate(**inputs, max_new_tokens=256)  # the router decides
    >>> model.generate(**inputs, max_new_tokens=256, thinking=True)  # forced
    ```
    """

    config: MetisHomeConfig
    base_class = MetisHomeModel


MetisHomeModel.register_for_auto_class("AutoModel")
MetisHomeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeForConditionalGeneration", "MetisHomeModel"]
