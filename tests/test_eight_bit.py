"""AdamW with 8-bit state: what stays in 32 bits, and the way from and to AdamW's."""

import copy
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_instructgpt.checkpoints.state import read_state, split, write_state
from lit_instructgpt.eight_bit import BLOCK, ROUNDING, is_eight_bit, kept_in_32_bits, make_eight_bit, smallest_piece
from lit_instructgpt.optim import build_optimizer

bnb = pytest.importorskip("bitsandbytes")

ADAMW = partial(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
EIGHT = partial(bnb.optim.AdamW8bit, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)


class Small(nn.Module):
    """A matrix with 8-bit state, and one of everything that keeps 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(80, 64)
        self.matrix = nn.Linear(96, 64)
        self.norm = nn.LayerNorm(5000)
        self.score = nn.Linear(5000, 1, bias=False)


def model() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


def train(module: nn.Module, optimizer: Any, seeds: Iterable[int]) -> None:
    """Steps with gradients of many sizes, the same for the same seeds."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for p in module.parameters():
            scale = torch.logspace(-3, 0, p.numel()).view(p.shape)
            p.grad = torch.randn(p.shape, generator=generator) * scale
        optimizer.step()
        optimizer.zero_grad()


def moments(optimizer: Any) -> dict[int, dict[str, Tensor]]:
    """Of AdamW, by the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {number: {k: v.clone() for k, v in entry.items()} for number, entry in state.items()}


def by_block(x: Tensor) -> list[Tensor]:
    return list(torch.split(x.flatten(), BLOCK))


def test_what_keeps_32_bits():
    module = model()
    kept = {id(p) for p in kept_in_32_bits([module])}
    names = {name for name, p in module.named_parameters() if id(p) in kept}
    assert names == {"embedding.weight", "matrix.bias", "norm.weight", "norm.bias", "score.weight"}
    optimizer: Any = build_optimizer(EIGHT, module.parameters(), module)
    train(module, optimizer, [1])
    dtypes = {name: optimizer.state[p]["state1"].dtype for name, p in module.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.uint8} == {"matrix.weight"}
    assert is_eight_bit(optimizer)


def test_state_is_there_before_the_first_update_and_changes_no_bit():
    ours, plain = model(), model()
    optimizer, one_by_one = (build_optimizer(EIGHT, list(m.parameters()), m) for m in (ours, plain))
    one_by_one._optimizer_step_pre_hooks.clear()  # bitsandbytes' own way: before the update of each
    seen = []
    update = optimizer.update_step
    optimizer.update_step = lambda *args: (seen.append(sum(bool(s) for s in optimizer.state.values())), update(*args))
    train(ours, optimizer, range(3))
    assert set(seen) == {len(list(ours.parameters()))}, "all states are made before the first parameter is updated"
    train(plain, one_by_one, range(3))
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_two_optimizers_do_not_share_their_exceptions():
    """bitsandbytes' own overrides are global, by position."""
    first, second = model(), nn.Sequential(nn.Linear(96, 64), nn.Linear(96, 64))
    train(first, build_optimizer(EIGHT, first.parameters(), first), [1])
    optimizer: Any = build_optimizer(EIGHT, second.parameters(), second)
    train(second, optimizer, [1])
    assert optimizer.state[second[0].weight]["state1"].dtype == torch.uint8


def test_a_saved_state_goes_on_bit_by_bit(tmp_path: Path):
    whole, cut = model(), model()
    optimizer = build_optimizer(EIGHT, whole.parameters(), whole)
    train(whole, optimizer, range(6))
    first = build_optimizer(EIGHT, cut.parameters(), cut)
    train(cut, first, range(3))
    write_state(*split({"o": first.state_dict()}), tmp_path)
    second = build_optimizer(EIGHT, cut.parameters(), cut)
    second.load_state_dict(read_state(tmp_path)["o"])
    train(cut, second, range(3, 6))
    for p, q in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(p, q)


def test_from_8_bits_to_adamw_and_back_within_the_bound():
    """Entry by entry, against the largest of its block; and what kept 32 bits comes back as it was."""
    module = model()
    optimizer = build_optimizer(ADAMW, module.parameters(), module)
    train(module, optimizer, range(5))
    before = moments(optimizer)
    eight: Any = build_optimizer(EIGHT, module.parameters(), module)
    eight.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert eight.state[module.matrix.weight]["state1"].dtype == torch.uint8
    back = build_optimizer(ADAMW, module.parameters(), module)
    back.load_state_dict(eight.state_dict())
    after = moments(back)
    names = [name for name, _ in module.named_parameters()]
    for number, name in enumerate(names):
        assert after[number]["step"] == before[number]["step"] == 5
        for which in ("exp_avg", "exp_avg_sq"):
            x, y = before[number][which], after[number][which]
            if name != "matrix.weight":
                assert torch.equal(x, y), (name, which)
                continue
            assert not torch.equal(x, y)
            for a, b in zip(by_block(x), by_block(y), strict=True):
                assert (a - b).abs().max() <= ROUNDING * a.abs().max()


def test_what_8_bits_hold_is_unfolded_without_a_loss():
    """Entry by entry: the number that its byte stands for, times the scale of its block."""
    module = model()
    eight: Any = build_optimizer(EIGHT, module.parameters(), module)
    train(module, eight, range(5))
    plain = build_optimizer(ADAMW, module.parameters(), module)
    plain.load_state_dict(copy.deepcopy(eight.state_dict()))
    state, found = eight.state[module.matrix.weight], plain.state[module.matrix.weight]
    for name, n in (("exp_avg", "1"), ("exp_avg_sq", "2")):
        for i, byte in enumerate(state[f"state{n}"].flatten().tolist()):
            expected = state[f"qmap{n}"][byte] * state[f"absmax{n}"][i // BLOCK]
            assert found[name].flatten()[i] == expected


def test_the_next_step_after_a_change_is_close():
    """AdamW goes on from 8-bit state about as it would have from its own."""
    exact, changed = model(), model()
    optimizer = build_optimizer(ADAMW, exact.parameters(), exact)
    train(exact, optimizer, range(5))
    changed.load_state_dict(exact.state_dict())
    eight = build_optimizer(EIGHT, changed.parameters(), changed)
    eight.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(exact, optimizer, [5])
    train(changed, eight, [5])
    for (name, p), q in zip(exact.named_parameters(), changed.parameters(), strict=True):
        assert (p - q).abs().max() <= 0.5 * 0.01, name  # half a step of the learning rate


def test_adamws_own_state_is_loaded_as_ever():
    module = model()
    optimizer = build_optimizer(partial(ADAMW, amsgrad=True), module.parameters(), module)
    train(module, optimizer, range(3))
    again = build_optimizer(partial(ADAMW, amsgrad=True), module.parameters(), module)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before, after = moments(optimizer), moments(again)
    assert before[0].keys() == after[0].keys() >= {"max_exp_avg_sq"}
    for number in before:
        for name in before[number]:
            assert torch.equal(before[number][name], after[number][name])


@pytest.mark.parametrize(
    ("shape", "num_devices", "expected"),
    [
        ((3, 2048), 2, 2048),  # 2 and 1 rows
        ((16, 768), 3, 4 * 768),  # 6, 6 and 4
        ((16, 2048), 6, 1 * 2048),  # 3, 3, 3, 3, 3 and 1
        ((4, 10), 8, 10),  # 1 each, and four devices without any
        ((6,), 3, 2),
    ],
)
def test_the_smallest_piece_by_hand(shape: tuple[int, ...], num_devices: int, expected: int):
    whole = SimpleNamespace(shape=torch.Size(shape), numel=lambda: math.prod(shape))
    whole.device_mesh = SimpleNamespace(size=lambda: num_devices)
    assert smallest_piece(whole) == expected  # type: ignore[arg-type]


def test_a_weight_has_8_bits_on_every_process_or_on_none(monkeypatch: pytest.MonkeyPatch):
    """Two processes with two rows and one of 2,048 entries: bitsandbytes alone would take 8 bits on the first (4,096 entries)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for rank in (0, 1):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
        try:
            mesh = init_device_mesh("cpu", (2,))
            whole = nn.Parameter(distribute_tensor(torch.randn(3, 2048), mesh, [Shard(0)], src_data_rank=None))
            large = nn.Parameter(distribute_tensor(torch.randn(8, 2048), mesh, [Shard(0)], src_data_rank=None))
            optimizer = make_eight_bit(EIGHT, [whole, large], [])
            kinds = []
            for i, p in enumerate(optimizer.param_groups[0]["params"]):
                p.grad = torch.ones_like(p)
                optimizer.init_state(optimizer.param_groups[0], p, 0, i)
                kinds.append(optimizer.state[p]["state1"].dtype)
            assert kinds == [torch.float32, torch.uint8]
        finally:
            torch.distributed.destroy_process_group()
