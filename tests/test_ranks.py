"""What processes tell one another; tests/distributed runs them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_instructgpt.callbacks.lost_process import _lost
from lit_instructgpt.ranks import sum_over_ranks


def test_a_sum_is_sent_from_the_device_of_the_run(monkeypatch: pytest.MonkeyPatch):
    """NCCL sends what is on a GPU alone; numbers may be on the CPU."""
    sent = []

    def all_reduce(x: torch.Tensor) -> None:
        sent.append(x.device.type)
        raise InterruptedError

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    module: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=2), device=torch.device("meta"))
    with pytest.raises(InterruptedError):
        sum_over_ranks(module, torch.ones(3, dtype=torch.float64))
    assert sent == ["meta"]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "RuntimeError: [...]/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:30099: Connection reset by peer",
            True,
        ),
        ("RuntimeError: Timed out waiting 6000ms for recv operation to complete", True),
        ("DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3", True),
        ("ConnectionRefusedError: [Errno 111] Connection refused", False),  # a reward's server
        ("FloatingPointError: the reward of prompt 'a' is nan", False),
        ("RuntimeError: an error made by the fault harness", False),
    ],
)
def test_which_errors_say_that_another_process_is_lost(text: str, lost: bool):
    assert _lost(text) == lost
