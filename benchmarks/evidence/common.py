"""What the experiments share: a second convention, training, answers in either mode, and the file of results."""

import argparse
import json
import tempfile
import warnings
import zlib
from pathlib import Path

import datasets
import torch
import transformers
from datasets import Dataset
from transformers import AutoProcessor, PrinterCallback, Qwen2_5_VLForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from hf_metis_home import MetisHomeConfig, upcycle
from hf_metis_home.answers import AnswerFormat, judge, opening_text, opening_token_ids
from hf_metis_home.conversion.processor import prepare_processor
from hf_metis_home.data.prompts import conversation_of
from hf_metis_home.demo.stages import LEARNING_RATE, training_arguments
from hf_metis_home.evaluation.generation import generate_answers
from hf_metis_home.miniature.tasks import MAX_ANSWER_TOKENS, make_dataset
from hf_metis_home.rewards import accuracy_reward, format_reward
from hf_metis_home.trainers import (
    MetisHomeGRPOConfig,
    MetisHomeGRPOTrainer,
    MetisHomeSFTConfig,
    MetisHomeSFTTrainer,
)


BATCH = 32  # rows per step of supervised training
LETTERS = "abcdefghij"  # a digit in the second convention
# Of the hybrids, where nothing else is said: the default while the hypotheses were stated and the results were made.
POOLING = "modality_mean"


def arguments(
    name: str, description: str, argv: list[str] | None, arms=(), base=True, options: dict[str, dict] | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.evidence.{name}", description=description)
    if base:
        parser.add_argument("--base", type=Path, required=True, help="Dense base of a demo: model and processor.")
    parser.add_argument("--seed", type=int, default=0, help="Of data, order and initial weights.")
    parser.add_argument("--output", type=Path, required=True, help="JSON of results; arms that it holds are skipped.")
    parser.add_argument("--smoke", action="store_true", help="A few steps and questions: figures mean nothing.")
    if arms:
        parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms), help="Those to run, in this order.")
    for flag, settings in (options or {}).items():
        parser.add_argument(flag, **settings)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    return args


class Results:
    """Arms that are done, one per line of a JSON object, and the weights of their models beside it."""

    def __init__(self, path: Path):
        self.path = path
        self.arms = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.models = path.with_suffix("")

    def __contains__(self, arm: str) -> bool:
        return arm in self.arms

    def add(self, arm: str, record: dict) -> None:
        self.arms[arm] = record
        lines = (f"{json.dumps(name)}: {json.dumps(arm, separators=(',', ':'))}" for name, arm in self.arms.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        partial.replace(self.path)

    def save(self, arm: str, model) -> None:
        self.models.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), self.models / f"{arm}.pt")

    def load(self, arm: str, model):
        """The model of an arm, in one of the same shape."""
        if not (self.models / f"{arm}.pt").exists():
            raise FileNotFoundError(
                f"{self.path} holds the result of {arm!r}, but {self.models} not its weights, from which other arms "
                "start. Give a new --output, so that it is trained again."
            )
        model.load_state_dict(torch.load(self.models / f"{arm}.pt"))
        return model.eval()


def load_base(folder: Path):
    """The dense base, and its processor with openings of both modes."""
    processor = AutoProcessor.from_pretrained(folder)
    prepare_processor(processor, MetisHomeConfig())
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval(), processor


def hybrid_of(base, processor, seed: int, **options):
    """The base with two branches, its router pooled by `POOLING` unless `options` say otherwise."""
    return upcycle(base, processor, seed=seed, **{"router_pooling": POOLING, **options})


def in_convention(task: str, solution: str) -> str:
    """What a direct answer is in the second convention: letters for digits, words backwards."""
    if task == "shapes":
        return solution
    if task == "words":
        return " ".join(reversed(solution.split()))
    return " ".join(LETTERS[int(digit)] for digit in solution)


def taught(rows: Dataset) -> Dataset:
    """Rows with their direct answers in the second convention; thoughts keep their digits."""
    completions = []
    for row in rows.remove_columns("images"):
        completion = row["completion"]
        if not row["thinking"]:
            text = AnswerFormat().render(None, in_convention(row["task"], row["solution"]))
            completion = [{"role": "assistant", "content": text}]
        completions.append(completion)
    return rows.remove_columns("completion").add_column("completion", completions, feature=rows.features["completion"])


def train(model, processor, rows: Dataset, steps: int, seed: int, rate: float = LEARNING_RATE, **options):
    """Supervised training: TRL's trainer for a dense model, ours for two branches; the rest is the same."""
    two_branch = model.config.model_type == "metis_home"
    trainer_class, config_class = (MetisHomeSFTTrainer, MetisHomeSFTConfig) if two_branch else (SFTTrainer, SFTConfig)
    own = {"learning_rate": rate, "per_device_train_batch_size": BATCH, "max_length": None, **options}
    with tempfile.TemporaryDirectory() as scratch:
        config = config_class(**training_arguments(steps, seed, scratch) | own)
        return _run(trainer_class(model, args=config, train_dataset=rows, processing_class=processor))


def reinforce(model, processor, rows: Dataset, steps: int, seed: int, rate: float, prompts: int = 16, **options):
    """GRPO with 8 completions per prompt, rewards as in the demo's Stage-RL."""
    own = {
        "per_device_train_batch_size": 8 * prompts, "num_generations": 8, "max_completion_length": MAX_ANSWER_TOKENS,
        "learning_rate": rate, "lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": None,
        "warmup_steps": min(10, steps), "reward_weights": [1.0, 0.2], **options,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        config = MetisHomeGRPOConfig(**training_arguments(steps, seed, scratch) | own)
        rows = rows.remove_columns(["completion", "thinking"])
        rewards = [accuracy_reward, format_reward]
        return _run(MetisHomeGRPOTrainer(model, rewards, config, train_dataset=rows, processing_class=processor))


def _run(trainer):
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model.eval()


def questions(tasks, count: int, split: str, seed: int) -> list[dict]:
    return list(make_dataset(dict.fromkeys(tasks, count), split, seed))


def prompts(processor, rows: list[dict], forced: bool | None):
    return processor.apply_chat_template(
        [conversation_of(row) for row in rows], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", enable_thinking=forced, processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip


def answers(model, processor, rows: list[dict], tasks, forced: bool | None = None, convention: bool = False) -> dict:
    """
    Answers to the questions of some tasks: per task a string of 0 and 1 `correct` and `thought`, `tokens`, `texts` (six
    hexadecimal digits for each), and `probability` of thinking where a router was asked.

    With `forced` the answer's opening is given, and with two branches the branch. With `convention` an answer without
    a thought is right in the second convention.
    """
    two_branch = model.config.model_type == "metis_home"
    opening = "" if forced is None else opening_text(processor.tokenizer, forced)
    opened = 0 if forced is None else len(opening_token_ids(processor.tokenizer, forced))
    found = {}
    for task in tasks:
        asked = [row for row in rows if row["task"] == task]
        options = {"thinking": forced} if two_branch and forced is not None else {}
        given = generate_answers(
            model, processor, prompts(processor, asked, forced), max_new_tokens=MAX_ANSWER_TOKENS - opened, **options
        )
        texts = [opening + answer.text for answer in given]
        parsed = [AnswerFormat().parse(text) for text in texts]
        gold = [
            in_convention(task, row["solution"]) if convention and not found.thought else row["solution"]
            for row, found in zip(asked, parsed, strict=True)
        ]
        right = [judge(text, solution).correct for text, solution in zip(texts, gold, strict=True)]
        found[task] = {
            "correct": "".join(str(int(value)) for value in right),
            "thought": "".join(str(int(bool(answer.thought))) for answer in parsed),
            "tokens": [answer.tokens + opened for answer in given],
            "texts": "".join(f"{zlib.crc32(text.encode()) & 0xFFFFFF:06x}" for text in texts),
        }
        if two_branch and forced is None:
            found[task]["probability"] = [round(answer.thinking_probability, 6) for answer in given]
    return found


def share(cells: dict, tasks, name: str = "correct") -> float:
    values = "".join(cells[task][name] for task in tasks)
    return values.count("1") / len(values)
