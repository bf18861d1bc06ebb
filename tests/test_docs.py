"""What the documentation names exists: keys, functions, files, verbs, options and targets."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_instructgpt import cli
from lit_instructgpt.config_check import allow_imports, check_lightning, check_tool

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lit_instructgpt"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("data/*/*.md")])
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
TOOLS = {
    verb: getattr(importlib.import_module(f"lit_instructgpt.{module}"), name)
    for verb, (module, name) in cli.TOOLS.items()
}
LOGGED = re.compile(r"(train|val|objective|response|loss|policy|value|time|throughput)/[a-z0-9_/]+")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def section(text: str, title: str) -> str:
    """A page's text below ``## title``, up to the next title of that level."""
    return re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def documented(text: str) -> set[str]:
    """First columns of tables, where they are one name in backticks."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


# --------------------------------------------------------------------------- metrics


def logged(tree: ast.AST) -> set[str]:
    """Keys that a module's source names, in whole strings or as ``a__b=`` of ``Metrics.add``."""
    keys = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LOGGED.fullmatch(node.value):
            keys.add(node.value)
        if isinstance(node, ast.keyword) and node.arg and "__" in node.arg:
            keys.add(node.arg.replace("__", "/"))
    return keys


def parsed(name: str) -> ast.AST:
    return ast.parse((PACKAGE / name).read_text())


def test_sft_keys() -> None:
    assert documented(section(text_of("docs/metrics.md"), "SFT")) == logged(parsed("modules/sft.py"))


def test_reward_model_keys() -> None:
    keys = logged(parsed("modules/ranking_rm.py"))
    keys |= {"val/pair_accuracy", "val/length_baseline", "val/num_pairs"}  # PairAccuracy.compute
    keys |= {"val/pair_accuracy/source/<name>", "val/pair_accuracy/labeler/<name>"}
    for name in ("pair_accuracy", "length_baseline", "num_pairs"):
        assert f'"{name}":' in (PACKAGE / "metrics.py").read_text()
    assert documented(section(text_of("docs/metrics.md"), "Reward model")) == keys


def test_ppo_keys() -> None:
    trees, metrics = [parsed("modules/ppo.py"), parsed("modules/ppo_rollout.py")], parsed("modules/ppo_metrics.py")
    keys = logged(trees[0]) | logged(trees[1]) | logged(metrics)
    (stats,) = [n for n in ast.walk(metrics) if isinstance(n, ast.FunctionDef) and n.name == "rollout_stats"]
    keys |= {f"val/{key}" for key in logged(stats)}
    calls = [
        n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    ]
    phases = {c.args[0].value for c in calls if c.func.attr == "phase" and isinstance(c.args[0], ast.Constant)}
    keys |= {f"time/{phase}" for phase in phases}
    assert documented(section(text_of("docs/metrics.md"), "PPO")) == keys


def keys_of(value: ast.expr | None) -> set[str]:
    """Keys of a dictionary, of `_mean(KEY, ...)`, and of several joined."""
    if isinstance(value, ast.BinOp):
        return keys_of(value.left) | keys_of(value.right)
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "_mean" and isinstance(value.args[0], ast.Constant):
        return {value.args[0].value}
    return {k.value for k in value.keys if isinstance(k, ast.Constant)} if isinstance(value, ast.Dict) else set()


def test_evaluation_keys() -> None:
    """Every key of the report's dictionaries has a row, and every row is a key."""
    nodes = [n for name in ("evaluation/compare.py", "evaluation/reward_models.py") for n in ast.walk(parsed(name))]
    keys = set()
    for name in ("evaluate", "_compare", "_model_report", "reward_model_report"):
        (function,) = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name]
        for node in ast.walk(function):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "report":
                keys |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
        assigned = [n for n in ast.walk(function) if isinstance(n, ast.AnnAssign | ast.AugAssign)]
        for node in assigned:
            if ast.unparse(node.target) == "report":
                keys |= keys_of(node.value)
    keys |= {"utility", "rm_score", "win_rate_vs_<name>", "<judge key>", "num_<judge key>", "ci95_<key>"}
    keys -= {"ci95_held_out_labelers"}
    text = section(text_of("docs/metrics.md"), "What `lit-instructgpt evaluate` reports")
    assert documented(text) == keys


# --------------------------------------------------------------------------- commands


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def commands() -> Iterator[tuple[str, str]]:
    """Every command line in the pages: fenced, indented, or in backticks."""
    for path in PAGES:
        text = path.read_text()
        lines = [line for block in blocks(text) for line in block.splitlines()]
        lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
        lines += [code for code in re.findall(r"`([^`\n]+)`", text) if re.match(r"(lit-instructgpt|make) \w", code)]
        for line in dict.fromkeys(lines):
            line = line.split("  #")[0].strip()
            if re.match(r"(\w+=\S+ )*(lit-instructgpt|make) [a-z]", line):
                yield page(path), line


COMMANDS = list(commands())


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 15
    assert {"README.md", "docs/own-model.md", "docs/data.md"} <= {where for where, _ in COMMANDS}


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=lambda value: value[:40])
def test_command(where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb and every option exist; files are there, but for the reader's own."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    while "=" in words[0]:
        words.pop(0)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of("Makefile"), re.MULTILINE), f"{where}: no target {words[1]}"
        return
    argv = [word.replace("configs/my/", "configs/") for word in words[1:]]
    assert argv[0] in (*cli.LIGHTNING_VERBS, *TOOLS), f"{where}: no verb {argv[0]}"
    for file in ("docs/own-model.md", "docs/evaluation.md"):
        for block in blocks(text_of(file), "python"):
            name = block.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    allowed, _ = cli.take_options(argv)
    allow_imports(allowed)
    try:
        if argv[0] in TOOLS:
            check_tool(argv[1:], TOOLS[argv[0]])
        else:
            check_lightning(argv[1:])
    finally:
        allow_imports([])


def test_all_verbs_are_in_the_readme() -> None:
    assert documented(section(text_of("README.md"), "Train your own")) >= set(TOOLS) | {"fit", "predict"}


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_links(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_no_path_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root)\b|\.\./shared", path.read_text())


@pytest.mark.parametrize("name", ["docs/algorithm.md", "docs/deviations.md"])
def test_named_code_exists(name: str) -> None:
    """Functions, classes, settings and files in backticks are in the package."""
    outside = {
        "train_policy.py", "policy.py", "model.py", "configs/paper", "training_step", "accumulate_grad_batches",
        "gradient_clip_val",
    }  # fmt: skip
    for code in re.findall(r"`([\w./]+(?:\(\))?)`", text_of(name)):
        if code in outside:
            continue
        if code.endswith(".py"):
            assert (ROOT / code).is_file() or any(str(path).endswith(f"/{code}") for path in PACKAGE.rglob("*.py")), (
                code
            )
        else:
            last = re.escape(re.split(r"[./]", code)[-1].removesuffix("()"))
            defined = rf"\b(?:def|class) {last}\b|^\s+{last}\b\s*[:=]|\bself\.{last}\b|\b{last} = "
            assert f'"{code}"' in SOURCE or re.search(defined, SOURCE, re.MULTILINE), code


def test_file_map_is_complete() -> None:
    """Every file of the package is in the README's map, by its name, its folder or a pattern."""
    named = re.findall(r"`([\w*./]+)`", section(text_of("README.md"), "Where to read"))
    folder = ""
    patterns = []
    for name in named:
        folder = name.rpartition("/")[0] if name.startswith("modules/") else folder
        patterns.append(name)
        if "/" not in name:
            patterns.append(f"{folder}/{name}")
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        if path.name.startswith("__"):
            continue
        assert any(
            relative.match(pattern) or (pattern.endswith("/") and str(relative).startswith(pattern))
            for pattern in patterns
        ), relative


def test_readme_has_the_places_that_are_filled_in() -> None:
    text = text_of("README.md")
    for name in ("miniature", "real_data"):
        assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
        assert text.index(f"<!-- {name}:begin -->") < text.index(f"<!-- {name}:end -->")
