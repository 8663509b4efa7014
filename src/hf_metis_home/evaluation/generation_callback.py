"""Answers to evaluation rows during training, as a user would get them."""

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from ..answers import AnswerFormat
from ..answers.matching import gold_text
from .metrics import summarise
from .outcomes import FEATURES, collect_outcomes


class GenerationCallback(TrainerCallback):
    """
    At every evaluation, the model answers some rows of the evaluation dataset.

    Logs `eval_accuracy`, `eval_malformed` (share of answers without a final answer, which count as wrong),
    `eval_thinking_ratio` (of a dense model, the share of answers with a thought) and `eval_mean_tokens`, over all rows
    and with `/{task}` for each task. Of a two-branch model the branch that the router picks answers. Answers are judged
    by [`~answers.judge`].

    Args:
        trainer ([`MetisHomeSFTTrainer`] or [`MetisHomeGRPOTrainer`]):
            Has an evaluation dataset with `prompt`, `images`, `solution` and `task`.
        rows (`int`):
            How many of its rows, from the first.
        max_new_tokens (`int`, *optional*, defaults to 1024):
            Longest answer in tokens; at most half of the model's positions.

    Raises:
        ValueError: no evaluation dataset, one without those columns, a `solution` without an answer, or a sharded
            model.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.generation_callback import GenerationCallback

    >>> trainer.add_callback(GenerationCallback(trainer, rows=64))
    ```
    """

    def __init__(self, trainer, rows: int, max_new_tokens: int = 1024):
        dataset = trainer.eval_dataset
        if dataset is None or isinstance(dataset, dict):
            raise ValueError(
                "`trainer` has no evaluation dataset of its own to take rows from. Pass one as `eval_dataset`, and set "
                "`eval_strategy` and `eval_steps`."
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "The model is sharded over processes (FSDP or DeepSpeed), so every process would have to take part in "
                "every token of every answer. Evaluate the saved checkpoints with `metis-home eval` instead."
            )
        needed = ["prompt", "images", "solution", "task"]
        if missing := [name for name in needed if name not in dataset.column_names]:
            raise ValueError(
                f"The evaluation dataset has no column {', '.join(map(repr, missing))}, which answers are compared "
                f"with; it has {dataset.column_names}."
            )
        self.trainer = trainer
        positions = trainer.model.config.get_text_config().max_position_embeddings
        self.max_new_tokens = min(max_new_tokens, positions // 2)
        self.rows = dataset.select_columns(needed).select(range(min(rows, len(dataset))))
        for number, solution in enumerate(self.rows["solution"]):
            gold_text(solution, f"Row {number} of the evaluation dataset: `solution`")

    def on_evaluate(self, args, state, control, **kwargs):
        trainer, accelerator = self.trainer, self.trainer.accelerator
        # Every rank answers its share. The last ones may have none, and `generate` does not talk to other ranks.
        mine = self.rows.select(range(accelerator.process_index, len(self.rows), accelerator.num_processes))
        model = accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        options = {"max_new_tokens": self.max_new_tokens, "batch_size": args.per_device_eval_batch_size}
        records = []
        if len(mine):
            records = collect_outcomes(model, trainer.processing_class, mine, routed_only=True, **options).to_list()
        model.train(training)
        outcomes = Dataset.from_list(gather_object(records), features=FEATURES)
        pools = {"all": sorted(set(outcomes["task"]))}
        cells = summarise(outcomes, pools=pools, answer_format=AnswerFormat.of(model.config))
        logs = {
            f"eval_{name}" + ("" if task == "all" else f"/{task}"): cell[name]
            for task, cell in cells.items()
            for name in ("accuracy", "malformed", "thinking_ratio", "mean_tokens")
        }
        state.log_history.append({**logs, "step": state.global_step, "epoch": state.epoch})
        trainer.callback_handler.on_log(args, state, control, logs)
