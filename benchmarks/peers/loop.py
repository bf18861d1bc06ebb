"""The floor: the shortest loops with the same work and the same kernels, and nothing else.

    python loop.py --stage sft|rm|ppo ...

SFT projects response positions alone; the reward model computes a prompt once for its K outputs; PPO is the plain
loop that pads to the longest row and scores with four separate passes.
"""

from __future__ import annotations

import sys
import time
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from measure import Meter, arguments, read, weights_dtype
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache

stage = sys.argv.pop(sys.argv.index("--stage") + 1)
sys.argv.remove("--stage")
args = arguments()
records = read(args.ids)
meter = Meter(args.out)
kwargs: dict[str, Any] = {"dtype": weights_dtype(args.dtype)}
autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16-autocast")


def padded(rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and mask."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return ids, mask


def hidden(model: Any, ids: Tensor, mask: Tensor, **more: Any) -> Tensor:
    """Last hidden states."""
    if "position_ids" not in more:
        more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    found: Tensor = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False, **more).last_hidden_state
    return found


def step(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """Clip, step, clear."""
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def sft() -> None:
    """Supervised fine-tuning."""
    model = AutoModelForCausalLM.from_pretrained(args.model, **kwargs).train()
    head, parameters = model.get_output_embeddings(), list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    for s in range(args.steps):
        batch, total = records[s * args.batch : (s + 1) * args.batch], 0.0
        num = sum(len(r["response"]) for r in batch)
        for m in range(0, len(batch), args.micro):
            part = batch[m : m + args.micro]
            ids, mask = padded([r["prompt"] + r["response"] for r in part])
            column = torch.arange(ids.shape[1])
            target = mask & (column >= torch.tensor([[len(r["prompt"])] for r in part]))
            with autocast:
                logits = head(hidden(model, ids, mask)[:, :-1][target[:, 1:]]).float()
                loss = F.cross_entropy(logits, ids[:, 1:][target[:, 1:]], reduction="sum") / num
            loss.backward()
            total += loss.item()
        step(optimizer, parameters)
        meter.step(total)


def shared_rows(batch: list[dict[str, Any]]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
    """Ids, positions, mask, last columns and the row of each."""
    rows, places, segments, last, owner = [], [], [], [], []
    for b, record in enumerate(batch):
        row, place, segment = list(record["prompt"]), list(range(len(record["prompt"]))), [0] * len(record["prompt"])
        for k, response in enumerate(record["responses"]):
            start = len(record["prompt"])
            row += response
            place += range(start, start + len(response))
            segment += [k + 1] * len(response)
            last.append(len(row) - 1)
            owner.append(b)
        rows.append(row)
        places.append(place)
        segments.append(segment)
    ids, real = padded(rows)
    positions, segment_ids = padded(places)[0], padded(segments)[0].masked_fill(~real, -1)
    same = segment_ids[:, :, None] == segment_ids[:, None]
    allowed = (same | ((segment_ids == 0)[:, None] & real[:, :, None])).tril()
    return ids, positions, allowed[:, None], torch.tensor(last), owner


def rm() -> None:
    """The reward model."""
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, **kwargs).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
    for s in range(args.steps):
        batch, total = records[s * args.batch : (s + 1) * args.batch], 0.0
        for m in range(0, len(batch), args.micro):
            part = batch[m : m + args.micro]
            ids, positions, allowed, last, owner = shared_rows(part)
            with autocast:
                states = hidden(model, ids, allowed, position_ids=positions)[owner, last]
                scores = model.score(states).float().squeeze(-1)
            losses, start = [], 0
            for record in part:
                k = len(record["ranking"])
                order = sorted(range(k), key=record["ranking"].__getitem__)
                pairs = torch.tensor(list(combinations(order, 2))) + start
                losses.append(-F.logsigmoid(scores[pairs[:, 0]] - scores[pairs[:, 1]]).mean())
                start += k
            loss = torch.stack(losses).sum() / len(batch)
            loss.backward()
            total += loss.item()
        step(optimizer, parameters)
        meter.step(total)


def ppo() -> None:
    """PPO without the pretraining mix."""
    policy = AutoModelForCausalLM.from_pretrained(args.model, **kwargs)
    reference = AutoModelForCausalLM.from_pretrained(args.model, **kwargs)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, **kwargs) for _ in range(2)
    )
    parameters = [*policy.parameters(), *value.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)
    eos = policy.generation_config.eos_token_id or policy.config.eos_token_id

    def logprobs(model: Any, ids: Tensor, mask: Tensor, num: int) -> Tensor:
        """Of the last tokens."""
        logits = model.get_output_embeddings()(hidden(model, ids, mask)[:, -num - 1 : -1]).float()
        return -F.cross_entropy(logits.flatten(0, 1), ids[:, -num:].flatten(), reduction="none").view(-1, num)

    def values(model: Any, ids: Tensor, mask: Tensor, num: int) -> Tensor:
        """Before the last tokens."""
        scalars: Tensor = model.score(hidden(model, ids, mask)[:, -num - 1 : -1]).float().squeeze(-1)
        return scalars

    for s in range(args.steps):
        start = time.perf_counter()
        ids, mask = padded([r["prompt"] for r in records[s * args.batch : (s + 1) * args.batch]], left=True)
        cache, tokens, done = DynamicCache(config=policy.config), ids, torch.zeros(len(ids), dtype=torch.bool)
        place, said = (mask.long().cumsum(1) - 1).clamp(min=0), []
        with torch.no_grad(), autocast:
            for _ in range(args.response):
                states = policy.base_model(
                    input_ids=tokens, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
                ).last_hidden_state[:, -1]
                tokens = torch.multinomial(policy.get_output_embeddings()(states).float().softmax(-1), 1)
                said.append(tokens)
                mask, place = torch.cat([mask, ~done[:, None]], 1), place[:, -1:] + 1
                done = done | (tokens[:, 0] == eos)
                if done.all():
                    break
            rollout = time.perf_counter() - start
            ids, num = torch.cat([ids, *said], 1), len(said)
            real = mask[:, -num:]
            old, ref = logprobs(policy, ids, mask, num), logprobs(reference, ids, mask, num)
            before = values(value, ids, mask, num)
            last = real.long().cumsum(1).argmax(1)[:, None]
            scores = reward.score(hidden(reward, ids, mask)[:, -num:]).float().squeeze(-1).gather(1, last)
            rewards = torch.where(real, -0.02 * (old - ref), 0.0).scatter_add(1, last, scores)
            advantages, following, next_value = torch.zeros_like(rewards), torch.zeros(len(ids)), torch.zeros(len(ids))
            for t in reversed(range(num)):
                delta = rewards[:, t] + next_value - before[:, t]
                following = torch.where(real[:, t], delta + 0.95 * following, 0.0)
                advantages[:, t], next_value = following, torch.where(real[:, t], before[:, t], 0.0)
            returns = advantages + before
            kept = advantages[real]
            advantages = (advantages - kept.mean()) / (kept.std() + 1e-8)
        for rows in torch.randperm(len(ids)).split(args.micro):
            with autocast:
                m = real[rows]
                ratio = (logprobs(policy, ids[rows], mask[rows], num) - old[rows]).exp()[m]
                now, a = values(value, ids[rows], mask[rows], num)[m], advantages[rows][m]
                near = torch.clamp(now, before[rows][m] - 0.2, before[rows][m] + 0.2)
                squares = torch.maximum((now - returns[rows][m]) ** 2, (near - returns[rows][m]) ** 2)
                loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).sum() + 0.05 * squares.sum()
            (loss / real.sum()).backward()
        step(optimizer, parameters)
        meter.step(rollout=rollout)
        meter.tokens.append(int(real.sum()))


{"sft": sft, "rm": rm, "ppo": ppo}[stage]()
meter.write()
