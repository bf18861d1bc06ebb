"""TRL's RewardTrainer as it comes: a ranking of K outputs is K (K - 1) / 2 pairs of two sequences."""

import tempfile
from itertools import combinations
from typing import Any

from datasets import Dataset
from measure import Meter, arguments, read, weights_dtype
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

args = arguments()
records = read(args.ids)[: args.batch * args.steps]
pairs = []
for record in records:
    best_first = [ids for _, ids in sorted(zip(record["ranking"], record["responses"], strict=True))]
    pairs += [(record["prompt"] + a, record["prompt"] + b) for a, b in combinations(best_first, 2)]
per_record = len(pairs) // len(records)
per_pass = args.pairs or args.micro * per_record
if args.batch * per_record % per_pass:
    raise SystemExit(f"--pairs {per_pass} does not divide the {args.batch * per_record} pairs of a step")
data = Dataset.from_dict({"chosen_ids": [a for a, _ in pairs], "rejected_ids": [b for _, b in pairs]})
tokenizer = AutoTokenizer.from_pretrained(args.model)
if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
    tokenizer.pad_token = tokenizer.unk_token
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=weights_dtype(args.dtype))
model.config.pad_token_id = tokenizer.pad_token_id
meter = Meter(args.out)


class Steps(TrainerCallback):  # type: ignore[misc]
    """Passes the ends of steps on."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        meter.step()


with tempfile.TemporaryDirectory() as directory:
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=directory, per_device_train_batch_size=per_pass,
            gradient_accumulation_steps=args.batch * per_record // per_pass, max_steps=args.steps,
            bf16=args.dtype == "bf16-autocast", fp16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
            save_strategy="no", logging_steps=args.steps, learning_rate=1e-5, disable_tqdm=True, max_length=None,
            train_sampling_strategy="sequential", dataloader_pin_memory=False,
        ),
        train_dataset=data, processing_class=tokenizer, callbacks=[Steps()],
    )  # fmt: skip
    meter.losses.append(trainer.train().training_loss)
meter.write()
