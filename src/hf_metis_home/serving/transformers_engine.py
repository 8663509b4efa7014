"""
`transformers serve` for hybrids: it loads our model class and takes a branch per request.

    python -m hf_metis_home.serving.transformers_engine serve runs/demo/hybrid --port 8001

`transformers serve` finds a class by the model's type among those it ships, so ours is registered first. The only field
of a request that reaches `generate` is `generation_config`, so the branch is read from there. Continuous batching, off
by default, packs requests into one row and cannot serve two branches.
"""

from ..modeling import MetisHomeConfig, MetisHomeForConditionalGeneration


DEFAULT_NEW_TOKENS = 1024  # as `transformers serve` sets for requests without a `generation_config`


class ServedHybrid(MetisHomeForConditionalGeneration):
    """A hybrid with a `generate` that takes `thinking` from the generation configuration if it is set there."""

    def generate(self, *args, generation_config=None, **kwargs):
        if generation_config is not None and hasattr(generation_config, "thinking"):
            kwargs["thinking"] = generation_config.thinking
            del generation_config.thinking  # else `generate` would move the keyword into the configuration
            if generation_config.max_new_tokens is None:
                own = self.generation_config.max_new_tokens or 0
                generation_config.max_new_tokens = max(DEFAULT_NEW_TOKENS, own)
        return super().generate(*args, generation_config=generation_config, **kwargs)


def register() -> None:
    """Let `transformers serve` load hybrids."""
    from transformers import AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[MetisHomeConfig.model_type] = ServedHybrid.__name__
    AutoModelForMultimodalLM.register(MetisHomeConfig, ServedHybrid, exist_ok=True)


def main() -> None:
    """The command line of `transformers`."""
    from transformers.cli.transformers import app

    register()
    app()


if __name__ == "__main__":
    # As a module with a name: what is registered must be the class that others import.
    from hf_metis_home.serving.transformers_engine import main as named_main

    named_main()
