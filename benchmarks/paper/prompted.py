"""The prompted pretrained models: `python -m benchmarks.paper.prompted DIR SEED`.

As the paper did for GPT-3 (section 3.6), the prefix is the one whose samples the reward model scores highest on validation
prompts. The candidates are headings under which the pretraining text shows tasks done well, alone and with examples by labelers.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from miniature.demo import read
from miniature.webtext import PAGE_HEADS

from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.evaluation.policies import Evaluated
from lit_instructgpt.formatting import SIDECAR, PromptFormat
from lit_instructgpt.models import load_tokenizer
from lit_instructgpt.records import Prompt
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.sampling import Sampling

NUM_EXAMPLES = (0, 1, 2)
DRAWS = 2
"""Prefixes that are tried of each heading and number of examples; one without examples."""

MAX_PREFIX_TOKENS = 110
"""With a prompt of 96 and a response of 48 tokens it fits the context of 256."""

NUM_PROMPTS = 200
READING = Reading(max_prompt_tokens=207, max_response_tokens=48, max_tokens=256)


def candidates(demonstrations: Sequence[dict[str, Any]], tokenizer: Any, seed: int) -> list[str]:
    """Prefixes of some examples each, short enough for the context."""
    found = []
    for head in PAGE_HEADS:
        for num in NUM_EXAMPLES:
            for draw in range(DRAWS if num else 1):
                rng = random.Random(f"{seed}/{head}/{num}/{draw}")
                for _ in range(200):
                    chosen = rng.sample(list(demonstrations), num)
                    prefix = "".join(f"{head}\n{row['prompt']}\n{row['response']}\n" for row in chosen) + f"{head}\n"
                    if len(tokenizer(prefix).input_ids) <= MAX_PREFIX_TOKENS and "{prompt}" not in prefix:
                        found.append(prefix)
                        break
    return found


def main(out: Path, seed: int) -> None:
    """Choose a prefix for each pretrained model, and write each as a directory whose format holds it."""
    demonstrations = read(out / "data/demonstrations.train.jsonl")
    rows = read(out / "data/prompts_ppo.valid.jsonl")[:NUM_PROMPTS]
    records = [Prompt(prompt=row["prompt"]) for row in rows]
    scorer = ModelReward(str(out / "rm/export"))
    for stage, name in (("base", "prompted"), ("large", "prompted_large")):
        source = str(out / stage / "export")
        scores: dict[str, float] = {}
        for prefix in candidates(demonstrations, load_tokenizer(source), seed):
            model = Evaluated(source, None, "cpu")
            model.format = PromptFormat(prefix + "{prompt}\n")
            texts = model.sample(records, READING, Sampling(1, 48, 1.0, seed), 128).texts
            scores[prefix] = mean(scorer([row["prompt"] for row in rows], texts))
        best = max(scores, key=lambda prefix: scores[prefix])
        target = out / name / "export"
        shutil.copytree(source, target)
        sidecar = json.loads((target / SIDECAR).read_text(encoding="utf-8"))
        sidecar["format"]["template"] = best + "{prompt}\n"
        (target / SIDECAR).write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {len(scores)} prefixes, scores {sorted(round(s, 3) for s in scores.values())}; best:\n{best}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
