"""TRL's SFTTrainer as it comes, loss on the response alone."""

import tempfile
from typing import Any

from datasets import Dataset
from measure import Meter, arguments, read, weights_dtype
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

args = arguments()
records = read(args.ids)[: args.batch * args.steps]
data = Dataset.from_dict(
    {
        "input_ids": [r["prompt"] + r["response"] for r in records],
        "labels": [[-100] * len(r["prompt"]) + r["response"] for r in records],
    }
)
tokenizer = AutoTokenizer.from_pretrained(args.model)
if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
    tokenizer.pad_token = tokenizer.unk_token
meter = Meter(args.out)


class Steps(TrainerCallback):  # type: ignore[misc]
    """Passes the ends of steps on."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        meter.step()


with tempfile.TemporaryDirectory() as directory:
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=weights_dtype(args.dtype)),
        args=SFTConfig(
            output_dir=directory, per_device_train_batch_size=args.micro,
            gradient_accumulation_steps=args.batch // args.micro, max_steps=args.steps,
            bf16=args.dtype == "bf16-autocast", fp16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
            save_strategy="no", logging_steps=args.steps, learning_rate=1e-5, disable_tqdm=True, max_length=None,
            train_sampling_strategy="sequential", dataloader_pin_memory=False,
        ),
        train_dataset=data, processing_class=tokenizer, callbacks=[Steps()],
    )  # fmt: skip
    meter.losses.append(trainer.train().training_loss)
meter.write()
