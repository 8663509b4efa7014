"""
Trains the thinking branch of a hybrid on rollouts by vLLM in this process, and says what engine and model answer.

    python -m tests.trainers.vllm_rollouts FOLDER

Run by test_vllm_rollouts.py in vLLM's environment. FOLDER has `hybrid` and `start`, a dense model.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch


LENGTH = 12


def keep_weights(layer, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


def main(folder: Path) -> None:
    from transformers import AutoProcessor, TrainerCallback
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils as layer_utils

    from hf_metis_home.modeling import MetisHomeForConditionalGeneration

    from .grpo_common import make_grpo, make_prompts

    # What TRL has no options for: the precision of the model here, and no compilation, which takes minutes on a CPU.
    vllm_generation.LLM = partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
    # On a CPU, and there alone, vLLM packs weights after loading, and then can load no others.
    layer_utils.dispatch_cpu_unquantized_gemm = keep_weights
    sampled = []

    class SuppressOnce(TrainerCallback):
        """Vision tokens are kept out of the first step alone; in the second, probabilities are compared."""

        def on_step_end(self, *args, **kwargs):
            trainer.vllm_generation.generation_kwargs = {}

    def parity(completion_ids, **kwargs):
        sampled.extend(completion_ids)
        return [float(sum(ids) % 3) for ids in completion_ids]

    processor = AutoProcessor.from_pretrained(folder / "hybrid")
    model = MetisHomeForConditionalGeneration.from_pretrained(folder / "hybrid")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_grpo(
        folder / "run", (model, processor), rewards=[parity], rollout_branch="thinking", max_steps=2, use_vllm=True,
        vllm_mode="colocate", vllm_dense_model=str(folder / "start"), vllm_max_model_length=256,
    )  # fmt: skip
    engine = trainer.vllm_generation
    trainer.add_callback(SuppressOnce())

    def answers():
        """The likeliest tokens after a picture and after a text, by the way of the trainer."""
        fields = ("temperature", "max_completion_length", "generation_kwargs")
        kept = {name: getattr(engine, name) for name in fields}
        engine.temperature, engine.max_completion_length, engine.generation_kwargs = 0.0, LENGTH, {"min_tokens": LENGTH}
        prompts = trainer._tokenize_prompts([trainer_prompt(row) for row in make_prompts(2)])
        found = [list(ids) for ids in trainer._generate_single_turn(*prompts, num_generations=1)[0]]
        for name, value in kept.items():
            setattr(engine, name, value)
        return found

    def trainer_prompt(row):
        from trl.data_utils import prepare_multimodal_messages

        return prepare_multimodal_messages(row["prompt"], images=row["images"])

    def expected():
        found = []
        for row in make_prompts(2):
            inputs = processor.apply_chat_template(
                trainer_prompt(row), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            with torch.no_grad():
                tokens = model.eval().generate(
                    **inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False, thinking=True
                )
            found.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
        return found

    trainer._last_loaded_step = 0  # as if the engine had the weights
    result = {"engine_before": answers(), "model_before": expected()}
    trainer._last_loaded_step = -1
    trainer.train()
    result |= {"engine_after": answers(), "model_after": expected(), "sampled": sampled}
    result["moved"] = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    difference = "sampling/sampling_logp_difference/max"
    result["differences"] = [log[difference] for log in trainer.state.log_history if difference in log]
    config = model.config
    result["vision"] = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
