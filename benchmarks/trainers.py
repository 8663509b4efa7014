"""
What the trainers cost over plain TRL: a step of SFT and of GRPO, on the same rows and the same completions.

```bash
python -m benchmarks.trainers --threads 1 2 --repeats 10
```

- *TRL, dense*: `SFTTrainer` and `GRPOTrainer` on the dense model.
- *dense*: `MetisHomeGRPOTrainer` on the dense model.
- *one branch*, *mixed*, *both*: the two-branch model; all rows of one mode, both modes in turns.
"""

import tempfile

import torch
from datasets import Dataset
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from hf_metis_home.conversion import upcycle
from hf_metis_home.miniature.model import build_miniature
from hf_metis_home.trainers import (
    MetisHomeGRPOConfig,
    MetisHomeGRPOTrainer,
    MetisHomeSFTConfig,
    MetisHomeSFTTrainer,
)

from .common import Variant, each_thread_count, introduction, measure, parser, start, table, write_section
from .models import Sizes, config_values
from .plots import write_plot


COLUMNS = ["", "ms", "quartiles", "to TRL", "with optimizer, ms", "to TRL"]
SUMS = (8, 32)  # in an answer of SFT: the fewer tokens in a batch, the more the weights cost
ANSWER_TOKENS = 24
ROLLOUTS = 4


def make_models(sizes: Sizes):
    """A dense model of the sizes with a real processor, and its two-branch form; TRL gets a copy of its own."""
    small, processor = build_miniature()
    config = small.config
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = sizes.hidden, sizes.ffn, sizes.layers
    like = config_values(sizes)["text_config"]
    text.num_attention_heads, text.num_key_value_heads = like["num_attention_heads"], like["num_key_value_heads"]
    text.rope_parameters = {**text.rope_parameters, **like["rope_parameters"]}
    text.layer_types = None
    vision.out_hidden_size = sizes.hidden
    config = type(config)(text_config=text.to_dict(), vision_config=vision.to_dict(), **_ids(config))
    torch.manual_seed(0)
    dense = Qwen2_5_VLForConditionalGeneration(config)
    dense.generation_config = small.generation_config
    return dense, processor


def _ids(config) -> dict:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "tie_word_embeddings")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def rows(sizes: Sizes, modes: list[bool], short: bool = False, sums: int = 8) -> Dataset:
    """Rows of equal length, whatever their mode, so that what differs is the trainer; direct ones may be `short`."""
    answer = " ".join(["3+4=7;"] * sums)
    direct = "" if short else f"{answer} "
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "sum of the squares"}],
                "images": [Image.new("RGB", (56, 56), (7 * number % 256, 40, 90))],
                "completion": [
                    {
                        "role": "assistant",
                        "content": f"<think>{answer}</think><answer>7</answer>"
                        if mode
                        else f"<think></think><answer>{direct}7</answer>",
                    }
                ],
                "thinking": mode,
            }
            for number, mode in enumerate(modes)
        ]
    )


COMMON = {
    "output_dir": tempfile.gettempdir(), "max_steps": 1000, "save_strategy": "no", "report_to": "none",
    "gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1000,
}  # fmt: skip


def common(sizes: Sizes) -> dict:
    """Weights stay in float32 with `bfloat16`, as the trainers' own default has it: the arithmetic is mixed."""
    return {
        **COMMON,
        "use_cpu": sizes.device == "cpu",
        "bf16": sizes.dtype == "bfloat16",
        "per_device_train_batch_size": sizes.batch,
    }


def sft_trainers(sizes: Sizes, sums: int) -> dict:
    options = {**common(sizes), "max_length": None}
    result = {}
    for name, modes in {"TRL, dense": [True], "one branch": [True], "mixed": [True, False]}.items():
        model, processor = make_models(sizes)
        data = rows(sizes, (modes * sizes.batch)[: sizes.batch], sums=sums)
        if name == "TRL, dense":
            trainer = SFTTrainer(model, SFTConfig(**options), train_dataset=data, processing_class=processor)
        else:
            trainer = MetisHomeSFTTrainer(
                upcycle(model, processor), MetisHomeSFTConfig(**options), train_dataset=data, processing_class=processor
            )
        result[name] = trainer
    return result


def varied(completion_ids, **kwargs) -> list[float]:
    return [float(sum(ids) % 7) for ids in completion_ids]


def grpo_trainers(sizes: Sizes) -> dict:
    options = {
        **common(sizes),
        "num_generations": ROLLOUTS,
        "max_completion_length": ANSWER_TOKENS,
        "learning_rate": 0.0,
        "loss_type": "grpo",
        "mask_truncated_completions": False,
    }
    result = {}
    names = {"TRL, dense": None, "dense": None, "one branch": "thinking", "both": "both"}
    for name, branch in names.items():
        model, processor = make_models(sizes)
        # The same tokens are possible for all, and none ends its answer early: equal completions, equal work.
        special = processor.tokenizer.all_special_ids
        options["generation_kwargs"] = {"suppress_tokens": special, "min_new_tokens": ANSWER_TOKENS}
        data = rows(sizes, [True] * sizes.batch).remove_columns(["completion", "thinking"])
        if name == "TRL, dense":
            trainer = GRPOTrainer(model, varied, GRPOConfig(**options), train_dataset=data, processing_class=processor)
        else:
            model = model if branch is None else upcycle(model, processor)
            trainable = {} if branch is None else {"trainable": "all"}  # the work of TRL: shared parts train too
            config = MetisHomeGRPOConfig(**options, rollout_branch=branch, **trainable)
            trainer = MetisHomeGRPOTrainer(model, varied, config, train_dataset=data, processing_class=processor)
        result[name] = trainer
    return result


def step(trainer, optimizer: bool, batch=None) -> Variant:
    """One `training_step`, rollouts and rewards of GRPO included, and the optimizer's where it is asked for."""
    batch = next(iter(trainer.get_train_dataloader())) if batch is None else batch
    if trainer.optimizer is None:
        trainer.create_optimizer()
    model = trainer.model_wrapped = trainer.accelerator.prepare(trainer.model.train())
    trainer.current_gradient_accumulation_steps = 1
    count = (batch["labels"] != -100).sum() if "labels" in batch else None

    def prepare():
        torch.manual_seed(0)
        model.zero_grad()
        if hasattr(trainer, "_step"):
            trainer._step = 0  # generate anew

    def run():
        inputs = dict(batch) if isinstance(batch, dict) or "labels" in batch else [dict(row) for row in batch]
        trainer.training_step(model, inputs, count)
        if optimizer:
            trainer.optimizer.step()

    return Variant(run, prepare)


def padding_steps(sizes: Sizes) -> dict[str, Variant]:
    """Two SFT steps on the same rows, long thoughts and short answers: in mixed batches, and in batches of one mode."""
    result = {}
    for name, orders in {"mixed batches": [[True, False]] * 2, "one_mode_batches": [[True], [False]]}.items():
        model, processor = make_models(sizes)
        options = {**common(sizes), "max_length": None}
        parts = [rows(sizes, (modes * sizes.batch)[: sizes.batch], short=True) for modes in orders]
        trainer = MetisHomeSFTTrainer(
            upcycle(model, processor), MetisHomeSFTConfig(**options), train_dataset=parts[0], processing_class=processor
        )
        batches = [trainer.data_collator(list(part)) for part in parts]
        steps = [step(trainer, optimizer=False, batch=batch) for batch in batches]
        result[name] = Variant(
            lambda steps=steps: [variant.run() for variant in steps], lambda steps=steps: steps[0].prepare(), count=2
        )
    return result


def timed(sizes: Sizes, args):
    parts, ratios = [], {}
    stages = {f"SFT, answers of {sums} sums": sft_trainers(sizes, sums) for sums in SUMS}
    for title, trainers in (stages | {"GRPO": grpo_trainers(sizes)}).items():
        if title.startswith("SFT"):
            batch = next(iter(trainers["mixed"].get_train_dataloader()))
            title += f" ({batch['input_ids'].shape[1]} tokens a row)"
        timings = [
            measure({name: step(trainer, optimizer) for name, trainer in trainers.items()}, args.repeats, args.device)
            for optimizer in (False, True)
        ]
        lines = []
        for name in trainers:
            reference = [timing["TRL, dense"] for timing in timings]
            first, second = (timing[name].cells(ref) for timing, ref in zip(timings, reference, strict=True))
            lines.append([name, *first, second[0], second[2]])
            ratios[f"{title}: {name}"] = timings[0][name].median / reference[0].median
        parts += [f"**{title}**, a step without and with the optimizer's update (AdamW).", table(COLUMNS, lines)]
    timings = measure(padding_steps(sizes), args.repeats, args.device)
    reference = timings["mixed batches"]
    lines = [[name, *timing.cells(reference)] for name, timing in timings.items()]
    parts += [
        "**Padding**: a step of SFT on long thoughts and short answers, whose batches hold both modes or one.",
        table(["", "ms", "quartiles", "to mixed"], lines),
    ]
    return parts, ratios


def main(argv: list[str] | None = None) -> None:
    arguments = parser("benchmarks.trainers", __doc__.strip().splitlines()[0], repeats=10)
    Sizes.add_flags(arguments)
    args = start(arguments, argv)
    sizes = Sizes.of(args)
    parts, ratios = each_thread_count(args, lambda: timed(sizes, args))
    about = (
        f"the miniature's vision tower and vocabulary, hidden size {sizes.hidden}, FFN {sizes.ffn}, {sizes.layers} "
        f"layers; {sizes.batch} rows of equal length with an image of 4 tokens; GRPO with {ROLLOUTS} completions of "
        f"{ANSWER_TOKENS} tokens per prompt"
    )
    picture = write_plot(args, ratios, "TRL, dense")
    write_section(args, [introduction(args, about, argv), picture, *parts])


if __name__ == "__main__":
    main()
