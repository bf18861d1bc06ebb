"""Miniature runs of the command on one and on two processes; see benchmarks/fault_runs.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stages import LONGER

from benchmarks.fault_runs import STAGES, Server, finish, make_configs, restarts


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts runs without eight seconds of imports each."""
    with Server() as running:
        yield running
    assert len(restarts) <= 1, f"{len(restarts)} pairs crashed: {restarts}"


@pytest.fixture(scope="session")
def stages(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """Config of each stage, and the folder with an uninterrupted run of each on one process. Do not write to them."""
    folder = tmp_path_factory.mktemp("stages")
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "eps": 1.0e-5, "weight_decay": 0.01}}
    configs = make_configs(folder, adamw)
    for stage in STAGES:
        finish(server, configs[stage], folder / stage, *LONGER[stage])
    return configs, folder
