"""Sequences in shared rows: against rows written by hand, and models against bare sequences one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from stages import plain_policy, plain_scorer, score_of, token_nlls
from torch import Tensor

from lit_instructgpt.batch import pad
from lit_instructgpt.hidden import can_pack, hidden_states, positions, why_not_packed
from lit_instructgpt.logprobs import target_logprobs
from lit_instructgpt.models import load_policy
from lit_instructgpt.modules import SFT, RankingRM
from lit_instructgpt.packing import Sharing, arrange, pack, passes, unit_lengths
from lit_instructgpt.scalar_model import ScalarModel

Dirs = Callable[[str], str]

SEQUENCES = [[5, 6, 7], [5, 6, 8, 9], [3], [4, 2]]
SHARING = Sharing(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 2, 0, 0]))
WIDE = 10**6
"""A hidden size at which attention costs nothing beside the matrices: only the number of tokens counts."""


def rows_of(left: bool = False) -> Any:
    ids, mask = pad(SEQUENCES, 0, left=left)
    rows = pack(ids, mask, WIDE, SHARING)
    assert rows is not None
    return rows


def test_rows_by_hand():
    """Units of 5, 1 and 2 tokens: two rows of 5 hold 10 places, one row of 8 holds 8."""
    rows = rows_of()
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 4, 2, 3]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1, 0]]
    assert rows.place.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [7, 0, 0, 0], [5, 6, 0, 0]]


def test_attention_by_hand():
    assert rows_of().attends()[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]


def test_left_padding_gives_the_same_rows():
    left, right = rows_of(left=True), rows_of()
    assert left.input_ids.equal(right.input_ids)
    assert left.attends().equal(right.attends())
    assert left.place.tolist() == [[0, 0, 1, 2], [0, 1, 3, 4], [0, 0, 0, 7], [0, 0, 5, 6]]


def test_shorter_rows_are_padded_and_their_padding_is_seen_by_nobody():
    ids, mask = pad([[1, 2, 3], [4, 5], [6, 7]], 0)
    rows = pack(ids, mask, 1)  # attention costs as much as the matrices: two rows, not one of 7
    assert rows is not None
    assert rows.input_ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    attends = rows.attends()
    assert not attends[0, 0, :3, 3].any()
    assert attends[0, 0, 3, 3], "no row of the softmax is empty"


def test_sequences_of_one_length_have_rows_of_their_own():
    ids, mask = pad([[1, 2, 3], [4, 5, 6]], 0)
    assert pack(ids, mask, 1) is None


def test_arrangement_by_hand():
    # Longest first, first row with room. Width 10: 10 | 6 4 | 5 3, and attention too dear for wider rows.
    row, start, width = arrange([6, 10, 5, 4, 3], 1)
    assert (row, start, width) == ([1, 0, 2, 1, 2], [0, 0, 0, 6, 5], 10)
    # 28 tokens: three rows of 10 are 30 places; where attention is free, two rows of 15 as well (10 5 | 6 4 3), and
    # one row of 28 is the least.
    assert arrange([6, 10, 5, 4, 3], WIDE)[2] == 28


def test_units_and_passes_by_hand():
    lengths = torch.tensor([3, 4, 1, 2])
    assert unit_lengths(lengths, SHARING).tolist() == [5, 1, 2]
    assert [p.tolist() for p in passes(lengths, SHARING, num_tokens=6)] == [[0, 1], [3, 2]]
    assert [p.tolist() for p in passes(lengths, SHARING, num_tokens=1)] == [[0, 1], [3], [2]], "a unit is never split"
    assert [p.tolist() for p in passes(lengths, SHARING, num_sequences=3)] == [[0, 1, 3], [2]]
    assert [p.tolist() for p in passes(lengths, SHARING)] == [[0, 1, 3, 2]]
    assert list(passes(torch.tensor([], dtype=torch.int64))) == []


def test_less_work_by_hand():
    # hidden size 1. Together 6 * 5 + 25 = 55, apart 6 * 7 + 9 + 16 = 67: shared. A prompt of one token and completions
    # of ten: together 6 * 21 + 441 = 567, apart 6 * 22 + 2 * 121 = 374: apart.
    lengths = torch.tensor([3, 4, 11, 11])
    sharing = Sharing(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 1, 1])).where_less_work(lengths, 1)
    assert sharing.num_prompt.tolist() == [2, 2, 0, 0]
    assert sharing.owner.tolist() == [0, 0, 1, 2]


# ------------------------------------------------------------------ models

PROMPT_A, PROMPT_B = [31, 8, 200, 45, 9], [64, 7]
MANY = [
    [*PROMPT_A, 11, 12], [*PROMPT_A, 90], [*PROMPT_A, 13, 14, 15, 16], [*PROMPT_B, 17], [*PROMPT_B, 18, 19],
    [3, 4, 5, 6, 7, 8, 9], [100, 101], [20],
]  # fmt: skip
OWNERS = Sharing(torch.tensor([0, 0, 0, 1, 1, 2, 3, 4]), torch.tensor([5, 5, 5, 2, 2, 0, 0, 0]))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_states_are_those_of_bare_sequences(family: str, tiny_dir: Dirs, tokenizer: Any, left: bool, packing: bool):
    model = load_policy(tiny_dir(family), tokenizer).eval()
    ids, mask = pad(MANY, 1, left=left)
    with torch.no_grad():
        states, place = hidden_states(model.base_model, ids, mask, OWNERS, packing)
        assert (len(states) < mask.sum()) == packing, "prompts are computed once"
        for row, sequence in enumerate(MANY):
            alone = model.base_model(input_ids=torch.tensor([sequence])).last_hidden_state[0]
            torch.testing.assert_close(states[place[row][mask[row]]], alone, atol=1e-5, rtol=1e-5)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shared", [False, True])
def test_loss_and_every_gradient_are_those_of_bare_sequences(family: str, tiny_dir: Dirs, tokenizer: Any, shared: bool):
    """The log-likelihood of all but the first two tokens, weighted unevenly."""
    sequences = [s for s in MANY if len(s) > 2]
    plain = plain_policy(tiny_dir(family))
    expected = torch.cat([-token_nlls(plain, s)[1:] for s in sequences])
    weight = torch.linspace(0.5, 2, len(expected))
    (expected * weight).sum().backward()
    model = load_policy(tiny_dir(family), tokenizer)
    ids, mask = pad(sequences, 1)
    targets = mask & (torch.arange(ids.shape[1]) >= 2)
    sharing = OWNERS.take(torch.tensor([i for i, s in enumerate(MANY) if len(s) > 2])) if shared else None
    found, _ = target_logprobs(model, ids, mask, targets, sharing=sharing)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (found * weight).sum().backward()
    own, other = gradients(model), gradients(plain)
    assert own.keys() == other.keys()
    for name in own:
        torch.testing.assert_close(own[name], other[name], atol=2e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_scores_and_values_are_those_of_bare_sequences(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    plain = plain_scorer(tiny_reward_dir(family))
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer)
    ids, mask = pad([s[:-2] for s in MANY if len(s) > 3], 1, left=True)
    responses, response_mask = pad([s[-2:] for s in MANY if len(s) > 3], 1)
    ids, mask = torch.cat([ids, responses], 1), torch.cat([mask, response_mask], 1)
    with torch.no_grad():
        scores = model.score(ids, mask)
        values = model.values(ids, mask, response_mask)
        for row, sequence in enumerate(s for s in MANY if len(s) > 3):
            torch.testing.assert_close(scores[row], score_of(plain, sequence), atol=1e-5, rtol=1e-5)
            hidden = plain.base_model(input_ids=torch.tensor([sequence])).last_hidden_state[0]
            torch.testing.assert_close(values[row], plain.score(hidden)[-3:-1, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("short", [False, True])
def test_bf16_autocast_agrees_to_its_own_rounding(
    family: str, tiny_dir: Dirs, tokenizer: Any, short: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lit_instructgpt.hidden.SHORT", 384 if short else 0)
    model = load_policy(tiny_dir(family), tokenizer).eval()
    ids, mask = pad(MANY, 1)
    with torch.no_grad():
        exact = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            states, place = hidden_states(model.base_model, ids, mask, OWNERS)
    assert model.config._attn_implementation == "sdpa", "as it was"
    error = (states[place].float() - exact)[mask].abs().max() / exact[mask].abs().max()
    assert error < 0.05


# ------------------------------------------------------------------ architectures that cannot


def test_an_architecture_with_sliding_windows_falls_back_loudly(tiny_dir: Dirs, tokenizer: Any):
    transformer = load_policy(tiny_dir("llama"), tokenizer).base_model
    transformer.config.sliding_window = 4
    with pytest.warns(UserWarning, match="windows of attention.*Set packing: false"):
        assert not can_pack(transformer)
    assert not can_pack(transformer), "said once"


def test_gpt_neo_with_its_local_attention_is_told_by_its_config(tokenizer: Any):
    config = transformers.GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_layers=2, num_heads=2, window_size=4, max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    assert "windows of attention" in str(why_not_packed(transformers.GPTNeoModel(config)))


def test_an_architecture_that_ignores_the_mask_is_found_out(tiny_dir: Dirs, tokenizer: Any):
    transformer = load_policy(tiny_dir("gpt2"), tokenizer).base_model
    forward = transformer.forward
    transformer.forward = lambda **kwargs: forward(**{**kwargs, "attention_mask": None})
    with pytest.warns(UserWarning, match="packing: GPT2Model .* states differ by"):
        assert not can_pack(transformer)


@pytest.mark.parametrize(("size", "tokens", "named"), [(0, None, "micro_batch_size"), (4, -1, "micro_batch_tokens")])
@pytest.mark.parametrize("module", [SFT, RankingRM])
def test_micro_batches_of_nothing_are_refused(
    module: Any, size: int | None, tokens: int | None, named: str, tiny_dir: Dirs
):
    with pytest.raises(ValueError, match=f"model.{named} must be null or positive, got"):
        module(tiny_dir("gpt2"), micro_batch_size=size, micro_batch_tokens=tokens)
