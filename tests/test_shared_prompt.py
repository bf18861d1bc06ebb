"""Prompts that share a row with their completions, against rows written by hand."""

import torch

from lit_instructgpt.batch import length_groups
from lit_instructgpt.shared_prompt import less_work, share_prompt

IDS = torch.tensor([
    [[5, 6, 7, 0], [5, 6, 8, 9], [0, 0, 0, 0]],
    [[3, 1, 0, 0], [3, 2, 2, 0], [3, 4, 0, 0]],
])  # fmt: skip
MASK = torch.tensor([
    [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
    [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]],
]).bool()  # fmt: skip
NUM_PROMPT = torch.tensor([2, 1])


def test_rows_by_hand():
    rows = share_prompt(IDS, MASK, NUM_PROMPT)
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9], [3, 1, 2, 2, 4]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 1, 2, 1]]
    assert rows.segment.tolist() == [[0, 0, 1, 2, 2], [0, 1, 2, 2, 3]]
    assert rows.last.tolist() == [[2, 4, 0], [1, 3, 4]]
    assert rows.lengths().tolist() == [5, 5]


def test_attention_by_hand():
    rows = share_prompt(IDS, MASK, NUM_PROMPT)
    assert rows.attends()[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_shorter_rows_are_padded_and_trimmed():
    mask = MASK.clone()
    mask[1, 2] = False
    rows = share_prompt(IDS, mask, NUM_PROMPT)
    assert rows.segment[1].tolist() == [0, 1, 2, 2, -1]
    assert rows.attends()[1, 0, 4].tolist() == [False, False, False, False, True], "no row of the softmax is empty"
    assert not rows.attends()[1, 0, :4, 4].any()
    assert rows.take(torch.tensor([1])).trim().input_ids.tolist() == [[3, 1, 2, 2]]


def test_less_work_by_hand():
    # hidden size 1. First: together 6 * 5 + 25 = 55, apart 6 * 7 + 9 + 16 = 67; a prompt of one token and long
    # completions: together 6 * 21 + 441 = 567, apart 6 * 22 + 2 * 121 = 374.
    ids = torch.ones(1, 2, 11, dtype=torch.int64)
    long = torch.ones(1, 2, 11, dtype=torch.bool)
    assert less_work(share_prompt(IDS[:1], MASK[:1], NUM_PROMPT[:1]), MASK[:1], 1).tolist() == [True]
    assert less_work(share_prompt(ids, long, torch.tensor([1])), long, 1).tolist() == [False]


def test_length_groups_by_hand():
    groups = [group.tolist() for group in length_groups(torch.tensor([3, 9, 4, 8, 1]), 10)]
    assert groups == [[1, 3], [2, 0, 4]], "two rows of 9 hold 18 >= 10 tokens; 4 needs three rows for 12"
    assert length_groups(torch.tensor([], dtype=torch.int64), 10) == []
