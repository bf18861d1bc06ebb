"""A run that is interrupted and resumed ends with the bits of the run that was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from stages import COMPARISONS, DEMOS, PROMPTS, TEXT, Record, adamw, comparisons, demos, fit, ppo, prompts, write

from lit_instructgpt.callbacks import ExportHF, SaveCheckpoints
from lit_instructgpt.checkpoints.directory import name_of, newest
from lit_instructgpt.kl_control import AdaptiveKL
from lit_instructgpt.modules import SFT, PPOModule, RankingRM
from lit_instructgpt.sampling import Sampling


class Interrupted(Exception):
    pass


class Interrupt(Callback):
    """Ends the run in the batch after ``num`` batches, which is lost."""

    def __init__(self, num: int) -> None:
        self.num, self.seen = num, 0

    def on_train_batch_end(self, *_: Any) -> None:
        if self.seen == self.num:
            raise Interrupted
        self.seen += 1


def everything(module: LightningModule) -> dict[str, Any]:
    """What shapes the future of a run, as plain tensors."""
    (optimizer,) = module.trainer.optimizers
    (schedule,) = module.trainer.lr_scheduler_configs
    state: dict[str, Any] = {f"weight {name}": p.detach() for name, p in module.named_parameters()}
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer {number} {name}": value for name, value in moments.items()}
    state["lr"] = torch.tensor([group["lr"] for group in optimizer.param_groups], dtype=torch.float64)
    state["scheduler"] = torch.tensor(schedule.scheduler.state_dict()["last_epoch"])
    state["global_step"] = torch.tensor(module.trainer.global_step)
    if isinstance(module, PPOModule):
        state["kl_coef"] = torch.tensor(module.kl_coef, dtype=torch.float64)
        state["iteration"] = torch.tensor(module.iteration)
        assert module.ema is not None
        state |= {f"ema {name}": x for name, x in module.ema.average.items()}
    return state


def check(
    make: Callable[[], LightningModule],
    data: Callable[[], Any],
    path: Path,
    steps: int,
    every: int = 1,  # optimizer steps of a batch
    same_logs: tuple[str, ...] = ("train/",),
    **settings: Any,
) -> tuple[Record, Record]:
    """Trains once straight through, and once interrupted before step ``steps`` and resumed in a new module."""
    torch.manual_seed(0)
    whole = make()
    _, expected = fit(whole, data(), path / "whole", **settings)
    expected_state = everything(whole)

    torch.manual_seed(0)
    folder = path / "cut" / "checkpoints"

    with pytest.raises(Interrupted):
        fit(make(), data(), path / "cut", Interrupt(steps), SaveCheckpoints(every_n_batches=1), **settings)
    assert newest(folder).path == folder / name_of(steps * every)

    torch.manual_seed(12345)  # a new process knows nothing of the old one's random numbers
    torch.randn(17)
    resumed = make()
    _, found = fit(resumed, data(), path / "cut", SaveCheckpoints(), ckpt_path=folder, **settings)
    found_state = everything(resumed)
    assert found_state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        assert torch.equal(found_state[name], value), name
    rest = expected.logged[steps:]
    assert len(found.logged) == len(rest) > 0
    for own, other in zip(found.logged, rest, strict=True):
        assert {k: v for k, v in own.items() if k.startswith(same_logs)} == {
            k: v for k, v in other.items() if k.startswith(same_logs)
        }
    assert found.validated[-1:] == expected.validated[-1:]
    return expected, found


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_pitfall_42_sft_with_dropout_resumes_bit_by_bit(tiny_dir: Any, tmp_path: Path, steps: int):
    valid = write(tmp_path / "valid.jsonl", DEMOS)
    text = write(tmp_path / "text.jsonl", TEXT)

    def data() -> Any:
        return demos(tmp_path, valid=valid, batch_size=4, text=text, text_fraction=0.25, text_tokens=12)

    expected, _ = check(
        lambda: SFT(tiny_dir("gpt2"), optimizer=adamw(0.01), dropout=0.3, micro_batch_size=2), data, tmp_path, steps,
        max_epochs=3,
    )  # fmt: skip
    assert len(expected.logged) == 6


def test_sfts_dropout_depends_on_its_seed_and_on_nothing_else(tiny_dir: Any, tmp_path: Path):
    losses = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(before)
        module = SFT(tiny_dir("gpt2"), optimizer=adamw(0.01), dropout=0.3, seed=seed)
        _, record = fit(module, demos(tmp_path), tmp_path, max_epochs=2)
        losses.append([logged["train/loss"] for logged in record.logged])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0][0] != losses[2][0]


def test_training_leaves_the_global_random_numbers_alone(tiny_dir: Any, tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    fit(SFT(tiny_dir("gpt2"), optimizer=adamw(0.01), dropout=0.3), demos(tmp_path), tmp_path)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_reward_model_resumes_bit_by_bit(tiny_dir: Any, tmp_path: Path, steps: int):
    valid = write(tmp_path / "valid.jsonl", COMPARISONS)
    check(
        lambda: RankingRM(tiny_dir("gpt_neox"), optimizer=adamw(0.01), seed=3),
        lambda: comparisons(tmp_path, valid=valid, batch_size=2), tmp_path, steps, max_epochs=3,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3])
def test_pitfall_32_and_33_ppo_resumes_bit_by_bit_within_its_epoch(
    tiny_dir: Any, tiny_reward_dir: Any, tmp_path: Path, steps: int
):
    valid, text = write(tmp_path / "v.jsonl", PROMPTS), write(tmp_path / "t.jsonl", TEXT)
    settings = ppo(
        ptx_coef=0.5, minibatch_size=4, micro_batch_size=2, ema_decay=0.9, num_warmup_iterations=3, kl_coef=0.1,
        adaptive_kl=AdaptiveKL(target=0.05, horizon=50),
    )  # fmt: skip
    expected, _ = check(
        lambda: PPOModule(
            tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=adamw(0.01), ppo=settings
        ),
        lambda: prompts(tmp_path, num_episodes=40, valid=valid, text=text, text_per_episode=2),
        tmp_path, steps, every=2, same_logs=("loss", "policy", "value", "objective", "response"),
    )  # fmt: skip
    assert len({logged["objective/kl_coef"] for logged in expected.logged}) == 5


def test_ppo_resumes_in_its_second_epoch(tiny_dir: Any, tmp_path: Path):
    check(
        lambda: PPOModule(
            tiny_dir("gpt2"), reward_fn=lambda p, r: [float(len(x)) for x in r], optimizer=adamw(0.01),
            ppo=ppo(ema_decay=0.9),
        ),
        lambda: prompts(tmp_path, num_episodes=16), tmp_path, 3, max_epochs=2, max_steps=4,
        same_logs=("loss", "objective"),
    )  # fmt: skip


def test_the_best_export_survives_a_resume(tiny_dir: Any, tiny_reward_dir: Any, tmp_path: Path):
    """A validation after the resume that is worse than the best before it does not replace the export."""
    valid = write(tmp_path / "valid.jsonl", DEMOS)
    folder = tmp_path / "run" / "checkpoints"

    def make() -> SFT:
        return SFT(
            tiny_dir("gpt2"), optimizer=adamw(0.03), dropout=0.0, final_lr_fraction=1.0,
            reward_model=tiny_reward_dir("gpt2"), sampling=Sampling(1, max_new_tokens=6, temperature=0),
        )  # fmt: skip

    def callbacks() -> list[Callback]:
        return [ExportHF(monitor="val/rm_score"), SaveCheckpoints(every_n_batches=1)]

    with pytest.raises(Interrupted):
        fit(
            make(), demos(tmp_path, valid=valid), tmp_path / "run", Interrupt(3), *callbacks(), max_epochs=5
        )  # fmt: skip
    sidecar = tmp_path / "run" / "export" / "lit_instructgpt.json"
    before = sidecar.read_text()
    export, saver = callbacks()
    _, record = fit(
        make(), demos(tmp_path, valid=valid), tmp_path / "run", export, saver,
        max_epochs=5, ckpt_path=folder,
    )  # fmt: skip
    assert isinstance(export, ExportHF)
    assert export.best is not None
    assert max(validated["val/rm_score"] for validated in record.validated) < export.best
    assert sidecar.read_text() == before


def test_two_exports_and_the_course_of_training_survive_a_resume(tiny_dir: Any, tmp_path: Path):
    """One export per metric, and every second validation's weights: the same directories as without an interruption."""
    valid = write(tmp_path / "valid.jsonl", DEMOS)

    def callbacks() -> list[Callback]:
        least = ExportHF(monitor="val/loss", mode="min", dirname="least_loss")
        return [ExportHF(every=2), least, SaveCheckpoints(every_n_batches=1)]

    def start(run: str, *more: Callback, **settings: Any) -> None:
        module = SFT(tiny_dir("gpt2"), optimizer=adamw(0.003), dropout=0.0, final_lr_fraction=1.0)
        fit(module, demos(tmp_path, valid=valid), tmp_path / run, *more, *callbacks(), max_epochs=5, **settings)

    start("whole")
    with pytest.raises(Interrupted):
        start("run", Interrupt(3))
    start("run", ckpt_path=tmp_path / "run" / "checkpoints")
    for run in ("whole", "run"):
        names = sorted(path.name for path in (tmp_path / run / "export_at").iterdir())
        assert names == ["2", "4"], "of five validations, one per step"
    for place in ("export", "least_loss", "export_at/2", "export_at/4"):
        files = [tmp_path / run / place / "model.safetensors" for run in ("whole", "run")]
        assert files[0].read_bytes() == files[1].read_bytes(), place
    assert (tmp_path / "run/export_at/2/model.safetensors").read_bytes() != files[1].read_bytes()


@pytest.mark.parametrize(("before", "after"), [(None, 0.9), (0.9, None)])
def test_a_moving_average_cannot_come_or_go_in_a_resume(
    tiny_dir: Any, tmp_path: Path, before: float | None, after: float | None
):
    def make(ema_decay: float | None) -> PPOModule:
        reward = lambda prompts, responses: [0.0] * len(responses)  # noqa: E731
        return PPOModule(tiny_dir("gpt2"), reward_fn=reward, optimizer=adamw(0.01), ppo=ppo(ema_decay=ema_decay))

    fit(make(before), prompts(tmp_path, num_episodes=16), tmp_path, SaveCheckpoints())
    said = "no moving average of the weights, but ppo.ema_decay is 0.9" if after else "but ppo.ema_decay is null"
    with pytest.raises(ValueError, match=f"{said}: set it as in the run that is resumed"):
        fit(
            make(after),
            prompts(tmp_path, num_episodes=16),
            tmp_path,
            SaveCheckpoints(),
            ckpt_path=tmp_path / "checkpoints",
        )
