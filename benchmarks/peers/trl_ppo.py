"""TRL's PPOTrainer, of the last release that had it (1.12), as it comes: one epoch, one minibatch."""

import tempfile
import time
from typing import Any

import trl.experimental.ppo.ppo_trainer as implementation
from datasets import Dataset
from measure import Meter, arguments, read, weights_dtype
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

args = arguments()
records = read(args.ids)[: args.batch * args.steps]
tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
    tokenizer.pad_token = tokenizer.unk_token
dtype = weights_dtype(args.dtype)
policy, reference = (AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype) for _ in range(2))
reward, value = (
    AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=dtype) for _ in range(2)
)
meter = Meter(args.out)
rollout_seconds = [0.0]
generate = implementation.batch_generation


def timed_generation(*given: Any, **named: Any) -> Any:
    """Sampling, with its seconds and tokens noted."""
    start = time.perf_counter()
    found = generate(*given, **named)
    rollout_seconds[0] += time.perf_counter() - start
    return found


implementation.batch_generation = timed_generation


class Steps(TrainerCallback):  # type: ignore[misc]
    """Passes the ends of iterations on."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An iteration has ended."""
        meter.step(rollout=rollout_seconds[0])
        rollout_seconds[0] = 0.0


with tempfile.TemporaryDirectory() as directory:
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=directory, per_device_train_batch_size=args.micro,
            gradient_accumulation_steps=args.batch // args.micro, num_mini_batches=1, num_ppo_epochs=1,
            total_episodes=args.batch * args.steps, response_length=args.response, stop_token="eos", temperature=1.0,
            local_rollout_forward_batch_size=args.batch, num_sample_generations=0,
            bf16=args.dtype == "bf16-autocast", fp16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
            save_strategy="no", learning_rate=1e-6, disable_tqdm=True, dataloader_pin_memory=False,
        ),
        processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": r["prompt"]} for r in records]), callbacks=[Steps()],
    )  # fmt: skip
    trainer.train()
meter.write()
