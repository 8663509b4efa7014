"""Batches carry what routing needs: the branch of every row, and where its prompt ends."""

import copy

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from hf_metis_home.trainers.collator import MetisHomeCollator
from tests.fixtures_text import byte_level_processor, word_level_processor

from .common import make_rows


MODES = (True, False, False, True)
PROCESSORS = {"word level": word_level_processor, "byte level": byte_level_processor}


@pytest.fixture(params=PROCESSORS)
def processor(request):
    return PROCESSORS[request.param]()


def make_collator(processor, **options):
    return MetisHomeCollator(DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True), **options)


def test_the_mask_ends_where_the_answer_begins(processor):
    rows = make_rows(MODES)
    batch = make_collator(processor)(rows)
    assert batch["thinking"].tolist() == list(MODES) and batch["thinking"].dtype == torch.bool
    assert batch["prompt_mask"].dtype == torch.bool and batch["prompt_mask"].shape == batch["input_ids"].shape
    for index, row in enumerate(rows):
        ids, mask = batch["input_ids"][index], batch["prompt_mask"][index]
        prompt = processor.tokenizer.decode(ids[mask])
        assert row["prompt"][0]["content"] in prompt
        assert prompt.endswith("<|im_start|>assistant\n")
        assert prompt.count("<|image_pad|>") == 4 * len(row["images"])
        answer = processor.tokenizer.decode(ids[batch["attention_mask"][index].bool() & ~mask])
        assert answer.startswith(row["completion"][0]["content"] + "<|im_end|>")
        assert (batch["labels"][index] != -100).equal(batch["attention_mask"][index].bool() & ~mask)


def test_rows_are_left_as_they_were(processor):
    rows = make_rows(MODES)
    before = copy.deepcopy(rows)
    make_collator(processor)(rows)
    assert rows == before


def test_a_long_row_is_named_and_not_cut(processor):
    rows = make_rows(MODES)
    longest = int(make_collator(processor)(rows)["attention_mask"].sum(dim=1).max())
    make_collator(processor, max_length=longest)(rows)
    with pytest.raises(ValueError, match=rf"Row \d of a batch has {longest} tokens, but `max_length` is {longest - 1}"):
        make_collator(processor, max_length=longest - 1)(rows)


def test_streamed_rows_are_checked_as_they_come():
    rows = make_rows(MODES)
    del rows[2]["thinking"]
    with pytest.raises(ValueError, match="Row 2 of a batch of the streamed dataset, column 'thinking': missing"):
        make_collator(word_level_processor(), check_rows=True)(rows)
