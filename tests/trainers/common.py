"""Tiny two-branch models, rows and trainers that run in a fraction of a second."""

from datasets import Dataset
from PIL import Image

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.conversion import upcycle
from hf_metis_home.trainers import MetisHomeSFTConfig, MetisHomeSFTTrainer
from hf_metis_home.trainers.parameter_groups import group_of
from tests.fixtures_text import tiny_dense, word_level_processor


QUESTIONS = ("what color is the shape?", "read the digits", "what shape is in the image?")
THOUGHTS = ("7-3=4;", "read the digits in the image, calculate the sum;")


def row(index: int, thinking: bool, images: int) -> dict:
    """A row unlike its neighbours: in question, in number and colour of images, in length of answer."""
    text = (
        AnswerFormat().render(THOUGHTS[index % 2], str(index % 10)) if thinking else AnswerFormat().render(None, "yes")
    )
    return {
        "prompt": [{"role": "user", "content": QUESTIONS[index % 3]}],
        "images": [Image.new("RGB", (56, 56), (index * 37 % 256, 90 * image, 60)) for image in range(images)],
        "completion": [{"role": "assistant", "content": text}],
        "thinking": thinking,
        "solution": "4",
        "task": "test",
    }


def make_rows(modes, images=(1, 0, 2)) -> list[dict]:
    return [row(index, thinking, images[index % len(images)]) for index, thinking in enumerate(modes)]


def make_dataset(modes=(True, False) * 4, images=(1, 0, 2)) -> Dataset:
    return Dataset.from_list(make_rows(modes, images))


LOW_RANK = {"branch_kind": "lora", "branch_rank": 2, "branch_projections": ["q_proj", "o_proj", "up_proj", "down_proj"]}


def make_hybrid(seed: int = 0, **options):
    """Branches that differ and a router with an opinion, so that no two parts are alike."""
    import torch

    processor = word_level_processor()
    options = {"router_layer": 1, "router_hidden_size": 8, **options}
    sources = {"thinking_model": seed + 1, "non_thinking_model": seed + 2}
    if options.get("branch_kind") == "lora":
        sources = {}
    sources = {name: tiny_dense(processor, seed=number) for name, number in sources.items()}
    model = upcycle(tiny_dense(processor, seed=seed), processor, **sources, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.model.language_model.router.score.weight, std=0.7)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return model, processor


def make_config(folder, **options) -> MetisHomeSFTConfig:
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return MetisHomeSFTConfig(**{**defaults, **options})


def make_trainer(folder, dataset=None, model=None, eval_dataset=None, trainer_options=None, **options):
    """A trainer of a new tiny hybrid; `options` are the configuration's."""
    hybrid, processor = make_hybrid() if model is None else model
    return MetisHomeSFTTrainer(
        hybrid,
        args=make_config(folder, **options),
        train_dataset=make_dataset() if dataset is None else dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        **(trainer_options or {}),
    )


def parameters(model) -> dict:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved_groups(before: dict, model) -> dict[str, set[bool]]:
    """Per group, whether its tensors differ from what they were: {True} all, {False} none."""
    moved: dict[str, set[bool]] = {}
    for name, parameter in model.named_parameters():
        moved.setdefault(group_of(name), set()).add(not before[name].equal(parameter.detach()))
    return moved
