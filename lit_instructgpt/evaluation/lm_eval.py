"""``lit-instructgpt lm_eval``: any task of lm-evaluation-harness on an exported directory, by its own code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_instructgpt.evaluation.inputs import devices, outs, policies
from lit_instructgpt.models import load_tokenizer


def harness(
    model: str,
    tasks: str,
    out: str,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness on an exported model and write what it reports.

    Its tasks download their data when they are first used; a task of yours in include_path can name local files.

    Args:
        model: directory of an exported policy.
        tasks: names of tasks, with commas between.
        out: the JSON file to write.
        include_path: directory with YAML files of more tasks.
        num_fewshot: solved examples before each; the task's own number by default.
        limit: use only this many items of each task.
        apply_chat_template: what is asked stands in the model's chat template.
        batch_size: sequences per batch.
        device: cpu, cuda, ...

    Returns:
        The harness' report without its samples, as written.

    Raises:
        ValueError: lm-evaluation-harness is not installed, or does not know a task; the directory holds no policy, the file
            cannot be written, there is no such device or no chat template.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-evaluation-harness is not installed: pip install 'lit-instructgpt[lm-eval]'")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(
            f"tasks: {tasks!r} names none; give names with commas between, for instance hellaswag,winogrande"
        )
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"include_path: {include_path} is no directory; give the one that holds the tasks' YAML files")
    if problems := [*policies({"model": model}), *outs(out), *devices(device)]:
        raise ValueError("\n".join(problems))
    if apply_chat_template and load_tokenizer(model).chat_template is None:
        raise ValueError(f"apply_chat_template: the tokenizer of {model} has no chat template; leave it out")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    manager = TaskManager(include_path=include_path)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ValueError(
            f"tasks: {', '.join(unknown)}: unknown to lm-evaluation-harness; lm_eval ls tasks lists its own, and "
            "--include_path DIR adds yours"
        )
    found: dict[str, Any] = simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=names,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        batch_size=batch_size,
        device=device,
        task_manager=manager,
        log_samples=False,
    )
    Console().print(make_table(found), markup=False, highlight=False)
    report = {"kind": "lm_eval", "model": model, "apply_chat_template": apply_chat_template, **found}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(report, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    return report
