"""The moving average of the policy's weights."""

import pytest
import torch
from torch import nn

from lit_instructgpt.ema import WeightEMA


def model(value: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    made = nn.Linear(2, 1).to(dtype)
    with torch.no_grad():
        made.weight.fill_(value)
        made.bias.fill_(7)
    made.bias.requires_grad_(False)
    return made


def set_weight(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def test_average_by_hand():
    policy = model(1.0)
    ema = WeightEMA(policy, 0.9)
    set_weight(policy, 2.0)
    ema.update(policy)  # 0.9 * 1 + 0.1 * 2
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), 1.1), atol=1e-6, rtol=0)
    set_weight(policy, -1.0)
    ema.update(policy)  # 0.9 * 1.1 - 0.1
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), 0.89), atol=1e-6, rtol=0)


def test_only_trainable_weights_are_averaged():
    policy = model(1.0)
    ema = WeightEMA(policy, 0.9)
    assert set(ema.average) == {"weight"}


def test_average_is_a_copy_in_float32():
    policy = model(1.0, torch.bfloat16)
    ema = WeightEMA(policy, 0.992)
    assert ema.average["weight"].dtype == torch.float32
    for _ in range(10):
        set_weight(policy, 2.0)
        ema.update(policy)
    assert ema.average["weight"][0, 0].item() == pytest.approx(2 - 0.992**10, abs=1e-5)


def test_swapped_in_and_out_again():
    policy = model(1.0)
    ema = WeightEMA(policy, 0.5)
    set_weight(policy, 3.0)
    ema.update(policy)
    with ema.swapped_in(policy):
        assert policy.weight.tolist() == [[2, 2]]
        assert policy.bias.item() == 7
    assert policy.weight.tolist() == [[3, 3]]
    assert ema.average["weight"].tolist() == [[2, 2]]
    with pytest.raises(RuntimeError, match="inside"), ema.swapped_in(policy):
        raise RuntimeError("inside")
    assert policy.weight.tolist() == [[3, 3]]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5])
def test_decay_out_of_range_is_refused(decay: float):
    with pytest.raises(ValueError, match="ema_decay must be between 0 and 1"):
        WeightEMA(model(1.0), decay)
