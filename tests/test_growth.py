"""The growth benchmark compares like with like."""

import pytest

from benchmarks.growth import EPISODES, TOKENS, attention_factor, cases


def test_attention_by_hand():
    # Width 256: a token's matrices count as 6 * 256 = 1,536 pairs. From rows of 128 to rows of 2,048 tokens: from
    # 1,664 to 3,584.
    assert attention_factor(2048, 128) == pytest.approx(3584 / 1664)
    assert attention_factor(128, 128) == 1


def test_only_the_length_of_the_rows_grows():
    for stage in ("sft", "rm"):
        sizes = cases(stage)
        assert tuple(size for size, _ in sizes) == TOKENS
        for size, case in sizes:
            completions = 1 if stage == "sft" else case.num_completions
            assert case.prompt + completions * case.response == size, "of a row"
            assert case.batch * size == 8192
            assert case.micro == case.batch


def test_iterations_grow_in_episodes_alone():
    sizes = cases("ppo")
    assert tuple(case.batch for _, case in sizes) == EPISODES
    assert len({(case.prompt, case.response) for _, case in sizes}) == 1
    assert all(case.batch % case.micro == 0 and case.micro <= 32 for _, case in sizes)
