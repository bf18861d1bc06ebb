"""Hugging Face directories: how one stage hands its model to the next, and to everyone else."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

import lit_instructgpt
from lit_instructgpt.formatting import SIDECAR, format_dict
from lit_instructgpt.hashes import hash_of


class ExportHF(Callback):
    """Writes ``export/`` in the run directory: weights, tokenizer, generation config, model card.

    With ``monitor`` it is the checkpoint whose validation metric was best, written whenever one is, and
    the final weights go to ``export_last/`` beside it; without it, the final weights. With ``every`` the weights of every
    n-th validation are kept too, for curves over the course of training: ``export_at/STEP/``, counted in optimizer steps.

    Args:
        monitor: a validation metric, e.g. ``val/rm_score``.
        mode: whether the smallest (``min``) or the largest (``max``) is best.
        dirname: of the directory, below the run directory.
        every: keep the weights of every n-th validation.
    """

    def __init__(
        self, monitor: str | None = None, mode: str = "max", dirname: str = "export", every: int | None = None
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"ExportHF: mode must be min or max, got {mode!r}")
        if Path(dirname).name != dirname or dirname in ("", ".."):
            raise ValueError(f"ExportHF: dirname must be a name in the run directory, got {dirname!r}")
        if every is not None and every < 1:
            raise ValueError(f"ExportHF: every must be at least 1, got {every}")
        self.monitor, self.mode, self.dirname, self.every = monitor, mode, dirname, every
        self.best: float | None = None
        self.validations = 0

    @property
    def state_key(self) -> str:
        """One run can have several, for different metrics."""
        return f"{type(self).__qualname__}[{self.dirname}]"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and how many there were."""
        return {"best": self.best, "validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.best, self.validations = state_dict["best"], state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports if it is the turn to, or the metric has improved; NaN is no improvement, and is said."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        if self.every is not None and self.validations % self.every == 0:
            self._export(trainer, pl_module, f"{self.dirname}_at/{trainer.global_step}")
        if self.monitor is None:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(k for k in trainer.callback_metrics if k.startswith("val/")))
            raise ValueError(f"ExportHF: no metric {self.monitor!r} to monitor; there are: {known}")
        if math.isnan(value):
            rank_zero_warn(
                f"ExportHF: {self.monitor} is nan at step {trainer.global_step}: nothing is exported for it; look at "
                "the validation data and the learning rate"
            )
            return
        sign = 1 if self.mode == "max" else -1
        if self.best is None or sign * float(value) > sign * self.best:
            self.best = float(value)
            self._export(trainer, pl_module, self.dirname)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports the final weights."""
        self._export(trainer, pl_module, self.dirname if self.monitor is None else f"{self.dirname}_last")

    def _export(self, trainer: Trainer, module: Any, dirname: str) -> None:
        run = Path(trainer.log_dir or trainer.default_root_dir)  # a broadcast: on every rank
        target, new = run / dirname, run / f"{dirname}.new"
        if trainer.is_global_zero:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        module.export(new if trainer.is_global_zero else None)
        sidecar = self._sidecar(trainer, module)
        if not trainer.is_global_zero:
            return
        (new / SIDECAR).write_text(json.dumps(sidecar, indent=1) + "\n")
        (new / "README.md").write_text(model_card(sidecar))
        if (run / "config.yaml").is_file():
            shutil.copy(run / "config.yaml", new / "training_config.yaml")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(new, target)

    def _sidecar(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        sidecar = {
            "stage": type(module).__name__,
            "format": format_dict(data.format),
            "data": {path: hash_of(path) for path in _paths(data.sources())},
            "steps": trainer.global_step,
            "metrics": {k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if v.numel() == 1},
            "versions": {
                "lit-instructgpt": lit_instructgpt.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "lightning": lightning.__version__,
            },
        }
        if hasattr(module, "probe"):
            sidecar["probe"] = module.probe()
        return sidecar


def _paths(sources: list[Any]) -> list[str]:
    return [path for source in sources for path in ([source] if isinstance(source, str) else source)]


def model_card(sidecar: dict[str, Any]) -> str:
    """README.md of an exported directory."""
    stage = sidecar["stage"]
    loader = "AutoModelForSequenceClassification" if stage == "RankingRM" else "AutoModelForCausalLM"
    lines = [
        "---", "library_name: transformers", "tags: [lit-instructgpt, rlhf]", "---", "",
        f"# {stage} model trained with lit-instructgpt", "",
        f"Load it with `transformers.{loader}.from_pretrained`.", "",
        f"Prompts were formatted as `{json.dumps(sidecar['format'])}`; every response ends with the EOS token.", "",
    ]  # fmt: skip
    if stage == "RankingRM":
        lines += [
            "The score of a response is the single logit, read at the last real token (EOS), plus "
            "`config.score_bias` (0 where the final norm could take up the bias).", "",
        ]  # fmt: skip
    lines += ["## Metrics", "", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in sidecar["metrics"].items()]
    lines += ["", "## Data", "", "| file | sha256 |", "|---|---|"]
    lines += [f"| {Path(path).name} | `{digest}` |" for path, digest in sidecar["data"].items()]
    lines += [
        "",
        "## Versions",
        "",
        *[f"- {name} {version}" for name, version in sidecar["versions"].items()],
    ]
    lines += ["", "The resolved configuration of the run is in `training_config.yaml`.", ""]
    return "\n".join(lines)
