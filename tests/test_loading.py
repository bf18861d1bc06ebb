"""Orders, global batches over ranks, and loaders that resume."""

from collections import Counter
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch

from lit_instructgpt.datamodules import DemoDataModule, PromptDataModule
from lit_instructgpt.datamodules.loading import (
    GlobalBatches,
    ResumableLoader,
    mixed,
    per_rank,
    repeated,
    sequential_loader,
    shuffled,
)


def test_shuffled_depends_on_seed_and_epoch_alone():
    first = shuffled(20, 3, 1)
    torch.manual_seed(99)
    assert shuffled(20, 3, 1) == first
    assert sorted(first) == list(range(20))
    assert first != list(range(20))
    assert shuffled(20, 3, 2) != first
    assert shuffled(20, 4, 1) != first


@pytest.mark.parametrize("num_samples", [1, 6, 7, 20, 21, 23])
def test_repeated_visits_every_item_equally_often(num_samples: int):
    indices = repeated(7, num_samples, seed=5)
    assert len(indices) == num_samples
    visits = Counter(indices)
    counts = [visits[i] for i in range(7)]
    assert max(counts) - min(counts) <= 1
    for start in range(0, num_samples - 6, 7):
        assert sorted(indices[start : start + 7]) == list(range(7))
    assert indices == repeated(7, 30, seed=5)[:num_samples]
    if num_samples >= 14:
        assert indices[:7] != indices[7:14]


def test_nothing_cannot_be_repeated():
    with pytest.raises(ValueError, match="there are no items to draw 3 from"):
        repeated(0, 3, 0)
    with pytest.raises(ValueError, match="there are no items to draw 1 from"):
        mixed(9, 0, 0.1, 0, 0)
    assert repeated(0, 0, 0) == []


@pytest.mark.parametrize(("num_demos", "fraction", "num_text"), [(90, 0.1, 10), (9, 0.5, 9), (30, 0.25, 10), (5, 0, 0)])
def test_mixed_holds_all_demonstrations_and_the_fraction_of_text(num_demos: int, fraction: float, num_text: int):
    for epoch in range(3):
        order = mixed(num_demos, 1000, fraction, 0, epoch)
        assert sorted(i for i in order if i < num_demos) == list(range(num_demos))
        text = [i for i in order if i >= num_demos]
        assert len(text) == len(set(text)) == num_text
        assert max(order) < num_demos + 1000
        assert order == mixed(num_demos, 1000, fraction, 0, epoch)


def test_mixed_is_shuffled_and_walks_through_the_text():
    epochs = [mixed(30, 20, 0.25, 0, epoch) for epoch in range(4)]
    visits = Counter(i for order in epochs for i in order if i >= 30)
    assert [visits[30 + i] for i in range(20)] == [2] * 20
    assert len({tuple(order) for order in epochs}) == 4
    assert any(i >= 30 for i in epochs[0][:20])


def test_mixed_repeats_scarce_text():
    order = mixed(9, 2, 0.5, 0, 0)
    assert sorted(Counter(i for i in order if i >= 9).values()) == [4, 5]


@pytest.mark.parametrize(("batch_size", "world"), [(0, 1), (-4, 2), (6, 4), (1, 2)])
def test_batch_sizes_that_do_not_divide_are_refused(batch_size: int, world: int):
    with pytest.raises(ValueError, match=rf"data\.batch_size \({batch_size}\).*\({world}\)"):
        per_rank(batch_size, world)
    with pytest.raises(ValueError, match=r"data\.batch_size"):
        GlobalBatches(partial(shuffled, 10, 0), batch_size, 0, world)
    assert per_rank(8, 4) == 2


@pytest.mark.parametrize("num_items", [16, 18, 12])
@pytest.mark.parametrize("epoch", [0, 3])
def test_ranks_share_the_same_global_batches(num_items: int, epoch: int):
    order = partial(shuffled, num_items, 1)
    expected = [order(epoch)[i : i + 8] for i in range(0, num_items, 8)]
    for world in (1, 2, 4):
        if 0 < num_items % 8 < world:
            continue
        ranks = []
        for rank in range(world):
            batches = GlobalBatches(order, 8, rank, world)
            batches.set_epoch(epoch)
            ranks.append(list(batches))
            assert len(batches) == len(ranks[-1]) == len(expected)
        for i, whole in enumerate(expected):
            assert sorted(index for rank in ranks for index in rank[i]) == sorted(whole)
        assert all(len(rank[0]) == 8 // world for rank in ranks)
        assert max(len(rank[-1]) for rank in ranks) - min(len(rank[-1]) for rank in ranks) <= 1


def test_drop_last_leaves_out_the_incomplete_batch():
    order = partial(shuffled, 19, 1)
    batches = GlobalBatches(order, 8, drop_last=True)
    assert list(batches) == [order(0)[:8], order(0)[8:16]]
    assert len(batches) == 2


@pytest.mark.parametrize("num_items", [16, 17, 18, 19, 20, 21, 3])
def test_no_rank_is_left_without_items(num_items: int):
    """A last batch of fewer items than ranks cannot be shared out: it is left out on every rank."""
    ranks = [list(GlobalBatches(partial(shuffled, num_items, 0), 8, rank, 4)) for rank in range(4)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(GlobalBatches(partial(shuffled, num_items, 0), 8, 0, 4))
    assert all(len(batch) > 0 for rank in ranks for batch in rank)
    seen = sum(len(batch) for rank in ranks for batch in rank)
    assert seen == num_items - (num_items % 8 if num_items % 8 < 4 else 0)


# ------------------------------------------------------------------ resuming


def loader(num_items: int = 22, epoch: int = 0) -> ResumableLoader:
    batches = GlobalBatches(partial(shuffled, num_items, 7), 4)
    batches.set_epoch(epoch)
    return ResumableLoader([f"item {i}" for i in range(num_items)], batches, list)


def epoch_of(which: ResumableLoader, epoch: int) -> list[Any]:
    which.batches.set_epoch(epoch)
    return list(which)


def test_whole_epochs():
    whole = loader()
    first, second = epoch_of(whole, 0), epoch_of(whole, 1)
    assert len(first) == len(second) == len(whole) == 6
    assert sorted(chain(*first)) == sorted(chain(*second)) == sorted(f"item {i}" for i in range(22))
    assert first != second
    assert first == [[f"item {i}" for i in shuffled(22, 7, 0)[s : s + 4]] for s in range(0, 22, 4)]


@pytest.mark.parametrize("given", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_loader_goes_on_where_it_stopped(given: int, epoch: int):
    uninterrupted = epoch_of(loader(), epoch)
    stopped = loader(epoch=epoch)
    iterator = iter(stopped)
    before = [next(iterator) for _ in range(given)]
    state = dict(stopped.state_dict())
    resumed = loader(epoch=epoch)
    resumed.load_state_dict(state)
    after = list(resumed)
    if given == 6:  # the epoch is over: the next one starts from its beginning
        assert state == {"given": 0}
        assert after == uninterrupted
    else:
        assert before + after == uninterrupted
    assert epoch_of(resumed, epoch + 1) == epoch_of(loader(), epoch + 1)


def test_a_resumed_loader_can_be_interrupted_again():
    uninterrupted = epoch_of(loader(), 0)
    once = loader()
    once.load_state_dict({"given": 2})
    iterator = iter(once)
    assert [next(iterator), next(iterator)] == uninterrupted[2:4]
    assert once.state_dict() == {"given": 4}
    twice = loader()
    twice.load_state_dict(once.state_dict())
    assert list(twice) == uninterrupted[4:]


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    list(loader())
    list(sequential_loader([1, 2, 3], 2, list))
    repeated(5, 12, 0)
    mixed(5, 5, 0.5, 0, 1)
    assert torch.get_rng_state().equal(before)


def test_sequential_loader_keeps_the_order():
    assert list(sequential_loader([3, 1, 2], 2, list)) == [[3, 1], [2]]


# ------------------------------------------------------------------ settings of the data modules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give `train`"),
        ({"train": "a", "text": "b", "text_fraction": 1.0}, "below 1"),
        ({"train": "a", "text_fraction": 0.1}, "no data.text to mix in"),
        ({"train": "a", "text": "b"}, "text_fraction is 0"),
    ],
)
def test_contradictory_demo_data_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DemoDataModule(**settings)


def test_episodes_must_fill_their_batches():
    with pytest.raises(ValueError, match="take 96, or another batch size"):
        PromptDataModule(num_episodes=100, batch_size=32)
    PromptDataModule(num_episodes=96, batch_size=32)
