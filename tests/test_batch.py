"""Padding, taking rows, splitting and trimming."""

import pytest
import torch

from lit_instructgpt.batch import DemoBatch, PromptBatch, Rollout, pad


def test_pad_right_and_left():
    ids, mask = pad([[1, 2, 3], [4], []], 9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
    ids, mask = pad([[1, 2, 3], [4], []], 9, left=True)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4], [9, 9, 9]]
    assert mask.tolist() == [[True, True, True], [False, False, True], [False, False, False]]


def test_pad_to_a_width():
    assert pad([[1], [2]], 0, width=3)[0].tolist() == [[1, 0, 0], [2, 0, 0]]
    assert pad([[1, 2]], 0, width=1)[0].tolist() == [[1, 2]]


def test_pitfall_16_a_pad_id_inside_the_text_counts():
    ids, mask = pad([[9, 1, 9], [1]], 9)
    assert ids.tolist() == [[9, 1, 9], [1, 9, 9]]
    assert mask.sum(1).tolist() == [3, 1]


def prompts() -> PromptBatch:
    ids, mask = pad([[1], [2, 3], [4, 5, 6]], 0, left=True)
    return PromptBatch(ids, mask, ["a", "b", "c"], [{"id": 1}, {"id": 2}, {"id": 3}], ["x:1", "x:2", "x:3"])


def test_take_rows_in_the_order_given():
    part = prompts().take(torch.tensor([2, 0, 2]))
    assert part.input_ids.tolist() == [[4, 5, 6], [0, 0, 1], [4, 5, 6]]
    assert part.text == ["c", "a", "c"]
    assert part.record == [{"id": 3}, {"id": 1}, {"id": 3}]
    part = prompts().take(slice(1, 3))
    assert part.attention_mask.tolist() == [[False, True, True], [True, True, True]]
    assert part.text == ["b", "c"]
    assert len(part) == 2


@pytest.mark.parametrize(("size", "lengths"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (7, [3]), (None, [3])])
def test_split_keeps_every_row_in_order(size: int | None, lengths: list[int]):
    parts = list(prompts().split(size))
    assert [len(part) for part in parts] == lengths
    assert [text for part in parts for text in part.text] == ["a", "b", "c"]
    assert torch.cat([part.input_ids for part in parts]).equal(prompts().input_ids)


def test_split_of_nothing():
    nothing = torch.zeros(0, 3, dtype=torch.int64)
    batch = DemoBatch(nothing, nothing.bool(), nothing.bool(), torch.zeros(0, dtype=torch.bool), [])
    assert list(batch.split(None)) == []


def rollout() -> Rollout:
    ids = torch.tensor([[0, 0, 5, 6, 7, 0, 0, 0], [0, 4, 5, 6, 7, 8, 0, 0]])
    mask = ids > 0
    whole = Rollout.empty(ids, mask, mask[:, 4:], torch.arange(2))
    whole.logprobs += torch.arange(8.0).view(2, 4)
    whole.scores += torch.tensor([3.0, 4.0])
    return whole


def test_empty_rollout_has_room_for_every_response_token():
    full = rollout()
    whole = Rollout.empty(full.input_ids, full.attention_mask, full.response_mask, full.prompt)
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        assert getattr(whole, name).eq(0).all()
        assert getattr(whole, name).shape == (2, 4)
    assert whole.scores.tolist() == [0, 0]
    whole.values += 1
    assert whole.returns.eq(0).all()


def test_trim_leaves_out_the_columns_that_are_padding_everywhere():
    trimmed = rollout().trim()
    assert trimmed.input_ids.tolist() == [[0, 5, 6, 7, 0], [4, 5, 6, 7, 8]]
    assert trimmed.attention_mask.tolist() == [[False, True, True, True, False], [True] * 5]
    assert trimmed.response_mask.tolist() == [[True, False], [True, True]]
    assert trimmed.logprobs.tolist() == [[0, 1], [4, 5]]
    assert trimmed.scores.tolist() == [3, 4]
    assert trimmed.returns.shape == (2, 2)


def test_trim_after_take():
    trimmed = rollout().take(torch.tensor([0])).trim()
    assert trimmed.input_ids.tolist() == [[5, 6, 7]]
    assert trimmed.logprobs.tolist() == [[0]]
    assert trimmed.scores.tolist() == [3]


def test_trim_of_what_is_full_changes_nothing():
    ids = torch.arange(1, 13).view(2, 6)
    whole = Rollout.empty(ids, ids > 0, torch.ones(2, 2, dtype=torch.bool), torch.arange(2))
    assert whole.trim().input_ids.equal(ids)
    assert whole.trim().logprobs.shape == (2, 2)
