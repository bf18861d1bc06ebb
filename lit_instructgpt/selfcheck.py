"""Refuses a PPO set-up that would train quietly wrong, before the first update, naming every cause.

Each check answers a mistake that users of other implementations made (docs/deviations.md lists them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lit_instructgpt import functional as F
from lit_instructgpt.batch import Rollout
from lit_instructgpt.formatting import read_format, read_sidecar
from lit_instructgpt.models import beyond_context, inference_mode, load_tokenizer
from lit_instructgpt.sharding import is_sharded

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule


FEW_BITS = 0.5
"""Nats an episode by which a reference in few bits may differ from the policy that it is without a warning."""


class SelfCheckError(ValueError):
    """The set-up would train wrong; the message lists every cause with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("self-check before the first update:\n" + "\n".join(f"  - {p}" for p in problems))
        self.problems = problems


def check_before_training(module: PPOModule) -> None:
    """What can be known without sampling.

    Raises:
        SelfCheckError: with all problems at once.
    """
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    problems = [
        *_length_of_run(module, data),
        *_batch_sizes(module, data),
        *_pretraining_mix(module, data),
        *_tokenizers(module),
        *_formats(module, data),
        *_lengths(module, data),
        *_models(module),
        *_reward_model_reload(module),
    ]
    if problems:
        raise SelfCheckError(problems)


def _length_of_run(module: PPOModule, data: Any) -> list[str]:
    trainer = module.trainer
    if trainer.max_epochs == 1 or trainer.max_steps != -1:
        return []
    return [
        f"trainer.max_epochs is {trainer.max_epochs}, but data.num_episodes ({data.num_episodes}) are those of the whole "
        "run: set trainer.max_epochs: 1, and num_episodes to the length you want (or end the run with trainer.max_steps)"
    ]


def _batch_sizes(module: PPOModule, data: Any) -> list[str]:
    batch, minibatch, micro = data.batch_size, module.ppo.minibatch_size, module.ppo.micro_batch_size
    world = module.trainer.world_size
    problems = []
    if batch % minibatch:
        problems.append(f"data.batch_size ({batch}) must be a multiple of ppo.minibatch_size ({minibatch})")
    if minibatch % world:
        problems.append(f"ppo.minibatch_size ({minibatch}) must be a multiple of the number of devices ({world})")
    if micro is not None and (micro < 1 or (minibatch // world) % micro):
        problems.append(
            f"ppo.minibatch_size per device ({minibatch // world}) must be a multiple of ppo.micro_batch_size ({micro})"
        )
    sizes = {
        "ppo.minibatch_size per device": minibatch // world,
        "ppo.micro_batch_size": micro,
        "ppo.rollout_batch_size": module.ppo.rollout_batch_size,
    }
    for name, size in sizes.items():
        if size is not None and size % data.samples_per_prompt:
            problems.append(
                f"{name} ({size}) must be a multiple of data.samples_per_prompt ({data.samples_per_prompt}): the "
                "responses to a prompt stay together"
            )
    return problems


def _pretraining_mix(module: PPOModule, data: Any) -> list[str]:
    if module.ppo.ptx_coef > 0 and not data.text_items:
        return [
            f"ppo.ptx_coef is {module.ppo.ptx_coef} but there is no data.text: give pretraining text, or set ptx_coef to 0"
        ]
    if module.ppo.ptx_coef == 0 and data.text_items:
        return ["data.text is given but ppo.ptx_coef is 0: leave the text out, or set ptx_coef (the paper: 27.8)"]
    return []


def _tokenizers(module: PPOModule) -> list[str]:
    own = module.tokenizer
    problems = []
    if own.pad_token_id == own.eos_token_id:
        problems.append("the policy's pad token is its EOS token: set another pad token in its tokenizer")
    for name, source in (("reward_model", module.reward_source), ("value_model", module.value_source)):
        if source is None or source == module.policy_source:
            continue
        other = load_tokenizer(source)
        if other.get_vocab() != own.get_vocab() or other.eos_token_id != own.eos_token_id:
            problems.append(
                f"{name} ({source}) has another tokenizer than the policy ({module.policy_source}): train it from the "
                "same model, or use it as reward_fn: lit_instructgpt.rewards.ModelReward, with a value_model of the "
                "policy's tokenizer"
            )
    return problems


def _formats(module: PPOModule, data: Any) -> list[str]:
    problems = []
    for name, source in (("policy", module.policy_source), ("reward_model", module.reward_source)):
        stored = read_format(source) if source is not None else None
        if stored is not None and stored != data.format:
            problems.append(
                f"{name} ({source}) was trained with {stored}, the prompts come with {data.format}: set data.format to it; if "
                "policy and reward model had different ones, train the reward model again with the policy's, or use it as "
                "reward_fn: lit_instructgpt.rewards.ModelReward, which keeps its own"
            )
    return problems


def check_lengths(module: PPOModule) -> None:
    """Refuses prompts, responses and text that do not fit the contexts of the models.

    Raises:
        SelfCheckError: with all problems at once.
    """
    problems = _lengths(module, module.trainer.datamodule)  # type: ignore[attr-defined]
    if problems:
        raise SelfCheckError(problems)


def _lengths(module: PPOModule, data: Any) -> list[str]:
    prompt, response = data.longest_prompt(), module.ppo.max_new_tokens
    setting = f"ppo.max_new_tokens ({response}) or data.reading.max_prompt_tokens (the longest has {prompt})"
    models = {
        "policy": (module.policy, module.policy_source),
        "value_model": (module.value_model.model, module.value_source),
    }
    if module.reward_source is not None:
        models["reward_model"] = (module.reward_model.model, module.reward_source)
    problems = []
    for name, (model, source) in models.items():
        needs = {setting: prompt + response} | (data.longest() if name == "policy" else {})
        problems += beyond_context(model.config, f"the {name} ({source})", needs)
    return problems


def _models(module: PPOModule) -> list[str]:
    problems = []
    frozen: dict[str, nn.Module] = {"ref": module.ref}
    if module.reward_source is not None:
        frozen["reward_model"] = module.reward_model
    trained: dict[str, nn.Module] = {"policy": module.policy, "value_model": module.value_model}
    for name, model in frozen.items():
        if any(p.requires_grad for p in model.parameters()) or model.training:
            problems.append(f"{name} must be frozen and in eval mode")
    for name, model in trained.items():
        dtypes = {str(p.dtype) for p in model.parameters() if p.dtype != torch.float32}
        if dtypes:
            problems.append(
                f"{name} holds {', '.join(sorted(dtypes))} weights: keep float32 masters and set trainer.precision: bf16-mixed"
            )
        if module.ppo.lora is None and not all(p.requires_grad for p in model.parameters()):
            problems.append(f"{name} has frozen weights")
    if module.ppo.frozen_dtype in ("int8", "nf4") and is_sharded(module.ref):
        problems.append(
            f"ppo.frozen_dtype: {module.ppo.frozen_dtype} keeps whole models, which fsdp2 has in pieces: set it to bfloat16"
        )
    for name, model in {**frozen, **trained}.items():
        if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
            problems.append(f"{name} has dropout, which is noise in the ratio: set it to 0")
    return problems


@torch.no_grad()
def _reward_model_reload(module: PPOModule) -> list[str]:
    probe = read_sidecar(module.reward_source).get("probe") if module.reward_source else None
    if probe is None or module.frozen_in is not None:  # its matrices are rounded by now
        return []
    ids = torch.tensor([probe["input_ids"]], device=module.device)
    score = module.reward_model.score(ids, torch.ones_like(ids, dtype=torch.bool)).item()
    if abs(score - probe["score"]) > 1e-3 * max(1.0, abs(probe["score"])):
        return [
            f"reward_model ({module.reward_source}) scores its own probe {score:.5f}, but {probe['score']:.5f} was "
            "recorded when it was saved: the directory is damaged, or another version of transformers computes it differently"
        ]
    return []


def check_first_rollout(module: PPOModule, rollout: Rollout, tolerance: float) -> None:
    """What the first episodes show: the ratio is 1 before any update, and padding changes nothing.

    Args:
        module: about to train.
        rollout: its first episodes.
        tolerance: of the differences, in nats; under bf16 autocast padding changes rounding.

    Raises:
        SelfCheckError: with all problems at once.
    """
    few = rollout.take(slice(0, min(8, len(rollout))))
    mask = few.response_mask
    problems = []
    with torch.no_grad():
        again, training = module.logprobs(module.policy, few)[0], module.values(few)
    for name, found in {"policy": again, "value_model": training}.items():
        if not torch.isfinite(found[mask]).all():
            problems.append(
                f"{name}: what it computes is not finite: its weights are damaged, or too large for the precision"
            )
    if problems:
        raise SelfCheckError(problems)
    ratio = (again - few.logprobs)[mask].abs().max().item()
    if not ratio <= tolerance:
        problems.append(
            f"the policy's log-probabilities changed by {ratio:.2g} nats before any update: something is random in train mode"
        )
    row = few.attention_mask.sum(1).argmin()[None]  # the episode with the most padding, with it and without
    shortest = few.take(row).trim()
    num = shortest.response_mask.shape[1]
    with inference_mode(module.policy, module.value_model):
        pairs = {
            "policy": tuple(module.logprobs(module.policy, part)[0] for part in (few, shortest)),
            "value_model": tuple(module.values(part) for part in (few, shortest)),
        }
    noise = (pairs["value_model"][0] - training)[mask].abs().max().item()
    if not noise <= tolerance:
        problems.append(
            f"the value model's values change by {noise:.2g} from eval to train mode: something is random in train mode"
        )
    for name, (batched, alone) in pairs.items():
        gap = (batched[row, :num] - alone)[shortest.response_mask].abs().max().item()
        if not gap <= tolerance:
            problems.append(
                f"{name}: padding changes its output by {gap:.2g}: its attention or positions do not honour the mask"
            )
    if problems:
        raise SelfCheckError(problems)
    apart = F.masked_sum(F.kl_k1(rollout.logprobs, rollout.ref_logprobs), rollout.response_mask, 1).mean().item()
    if module.ppo.frozen_dtype in ("int8", "nf4") and abs(apart) > FEW_BITS:
        rank_zero_warn(
            f"ppo.frozen_dtype: {module.ppo.frozen_dtype}: the KL to the reference is {apart:.2f} nats an episode before any "
            "update, where it should be 0: that is the rounding of its weights, which the penalty will act on; keep them in "
            "bfloat16, or in int8 instead of nf4"
        )
