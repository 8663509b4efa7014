"""Answers to evaluation rows during training, as a user would get them."""

from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..answers.matching import answers_match, gold_text
from .answering import answer_rows, summarise


class GenerationCallback(TrainerCallback):
    """
    At every evaluation, lets the model answer some rows of the evaluation dataset and logs how well.

    Logs `eval_accuracy`, `eval_thinking_ratio` (of a two-branch model whose router decides; for a dense one, the share
    of answers with a thought) and `eval_mean_tokens`, over all rows and with `/{task}` for each task. Answers are
    compared as [`~answers.matching.answers_match`] does.

    Args:
        trainer ([`MetisHomeSFTTrainer`] or [`MetisHomeGRPOTrainer`]):
            Has an evaluation dataset with `prompt`, `images`, `solution` and `task`.
        rows (`int`):
            How many of its rows, from the first.
        max_new_tokens (`int`, *optional*, defaults to 1024):
            Longest answer in tokens.

    Raises:
        ValueError: no evaluation dataset, one without those columns, a `solution` that holds no answer, or a model
            that is sharded.

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
                "`trainer` has no evaluation dataset of its own to take rows from. Give it one as `eval_dataset`, and "
                "set `eval_strategy` and `eval_steps`."
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "The model is sharded over processes (FSDP or DeepSpeed), where every process has to take part in "
                "every token of every answer. Evaluate the saved checkpoints with `metis-home eval` instead."
            )
        needed = ("prompt", "images", "solution", "task")
        if missing := [name for name in needed if name not in dataset.column_names]:
            raise ValueError(
                f"The evaluation dataset has no column {', '.join(map(repr, missing))}, which answers are compared "
                f"with; it has {dataset.column_names}."
            )
        self.trainer, self.max_new_tokens = trainer, max_new_tokens
        self.rows = dataset.select(range(min(rows, len(dataset))))
        for number, solution in enumerate(self.rows["solution"]):
            gold_text(solution, f"Row {number} of the evaluation dataset: `solution`")

    def on_evaluate(self, args, state, control, **kwargs):
        trainer, accelerator = self.trainer, self.trainer.accelerator
        # Every rank answers its share. Those of the last ones may be empty, and `generate` talks to no other rank.
        mine = self.rows.select(range(accelerator.process_index, len(self.rows), accelerator.num_processes))
        model = accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        records = answer_rows(
            model,
            trainer.processing_class,
            mine,
            max_new_tokens=self.max_new_tokens,
            batch_size=args.per_device_eval_batch_size,
            match=answers_match,
        )
        model.train(training)
        records = gather_object(records)
        pools = {"all": sorted({record.task for record in records})}
        logs = {}
        for task, cell in summarise(records, pools).items():
            suffix = "" if task == "all" else f"/{task}"
            for name in ("accuracy", "thinking_ratio", "mean_tokens"):
                logs[f"eval_{name}{suffix}"] = cell[name]
        state.log_history.append({**logs, "step": state.global_step, "epoch": state.epoch})
        trainer.callback_handler.on_log(args, state, control, logs)
