"""Dependencies point one way, and the maths needs nothing but torch."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_instructgpt

PACKAGE = Path(lit_instructgpt.__file__).parent
NAME = "lit_instructgpt"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join([NAME, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, inside functions too, but not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                below = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                is_module = below.with_suffix(".py").is_file() or below.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        yield from imported(node)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: set(imported(ast.parse(path.read_text(encoding="utf-8")))) for name, path in FILES.items()}


def own(name: str) -> set[str]:
    """Modules of this package that one imports."""
    return {other for other in IMPORTS[f"{NAME}.{name}"] if other.split(".")[0] == NAME}


def foreign(name: str) -> set[str]:
    """Other packages that one imports."""
    return {other.split(".")[0] for other in IMPORTS[f"{NAME}.{name}"]} - {NAME} - set(sys.stdlib_module_names)


def short(prefix: str) -> list[str]:
    return [name.removeprefix(f"{NAME}.") for name in IMPORTS if name.startswith(f"{NAME}.{prefix}")]


def test_the_walk_sees_every_kind_of_import():
    source = """
        import os.path, torch.nn as nn
        from lit_instructgpt import functional
        from lit_instructgpt.modules import SFT
        if TYPE_CHECKING:
            from lit_instructgpt.cli import main
        def late():
            if True:
                from lit_instructgpt.callbacks.export import Export
        """
    assert set(imported(ast.parse(textwrap.dedent(source)))) == {
        "os.path",
        "torch.nn",
        "lit_instructgpt.functional",
        "lit_instructgpt.modules",
        "lit_instructgpt.callbacks.export",
    }
    assert {"functional", "batch", "modules.ppo", "datamodules.loading", "cli"} <= set(short(""))


@pytest.mark.parametrize("name", ["functional", "kl_control", "batch", "ema"])
def test_the_lowest_layer_imports_torch_alone(name: str):
    assert foreign(name) <= {"torch"}
    assert own(name) == set()


@pytest.mark.parametrize("name", short("records"))
def test_records_are_read_without_torch(name: str):
    assert not foreign(name) & {"torch", "lightning", "transformers"}
    assert all(other.startswith(f"{NAME}.records") for other in own(name))


LOW = {
    "functional",
    "kl_control",
    "batch",
    "packing",
    "attention",
    "compiled",
    "dropout",
    "hidden",
    "inference",
    "scalar_model",
    "ema",
    "formatting",
    "models",
    "logprobs",
    "generation",
    "optim",
    "metrics",
    "hashes",
    "run_seed",
    "ranks",
    "sharding",
    "eight_bit",
    "lora",
    "memory_plan",
    "checkpoints.state",
    "checkpoints.directory",
}
MIDDLE = LOW | {"engines", "rewards", "sampling", "selfcheck"}


@pytest.mark.parametrize("name", sorted(MIDDLE))
def test_the_middle_layers_import_nothing_above_them(name: str):
    allowed = (LOW if name in LOW else MIDDLE) | {"records"}
    assert {other.removeprefix(f"{NAME}.") for other in own(name)} <= allowed


@pytest.mark.parametrize("name", short("datamodules"))
def test_data_modules_import_neither_modules_nor_models(name: str):
    allowed = {"batch", "formatting", "hashes", "run_seed", "datamodules", *short("records"), *short("datamodules.")}
    assert {other.removeprefix(f"{NAME}.") for other in own(name)} <= allowed


@pytest.mark.parametrize("name", short("modules"))
def test_modules_do_not_import_data_modules_or_callbacks(name: str):
    allowed = MIDDLE | {"strategy", "modules", *short("modules.")}
    assert {other.removeprefix(f"{NAME}.") for other in own(name)} <= allowed


def test_statistics_need_numpy_alone():
    assert foreign("evaluation.statistics") <= {"numpy"}
    assert own("evaluation.statistics") == set()


@pytest.mark.parametrize("name", short("evaluation"))
def test_evaluation_needs_no_trainer(name: str):
    allowed = MIDDLE | {NAME, "datamodules", *short("records"), *short("datamodules."), *short("evaluation")}
    assert {other.removeprefix(f"{NAME}.") for other in own(name)} <= allowed


@pytest.mark.parametrize("name", ["report", *short("report.")])
def test_the_report_stands_alone(name: str):
    assert foreign(name) <= {"markupsafe", "tensorboard"}
    assert all(other.startswith(f"{NAME}.report.") for other in own(name))


@pytest.mark.parametrize("name", short(""))
def test_nothing_imports_the_command_line(name: str):
    above = {f"{NAME}.{command}" for command in ("cli", "lightning_cli", "__main__")}
    allowed = {"cli": {f"{NAME}.lightning_cli"}, "__main__": {f"{NAME}.cli"}}.get(name, set())
    assert own(name) & above <= allowed


@pytest.mark.parametrize("name", short("callbacks"))
def test_callbacks_are_below_the_commands_alone(name: str):
    users = {n for n, imports in IMPORTS.items() if any(i.startswith(f"{NAME}.callbacks") for i in imports)}
    assert users <= {f"{NAME}.lightning_cli", f"{NAME}.callbacks", *(f"{NAME}.{n}" for n in short("callbacks."))}
    assert not own(name) & {
        f"{NAME}.{command}" for command in ("cli", "lightning_cli", "evaluation", "chat", "prepare")
    }


def test_no_import_goes_round_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in sorted(IMPORTS[name] & FILES.keys()):
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())
    assert done == set(FILES)


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"lightning", "pytorch_lightning", "transformers", "torchmetrics", "datasets"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
try:
    import transformers
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")
import lit_instructgpt.functional, lit_instructgpt.kl_control, lit_instructgpt.batch
print(lit_instructgpt.functional.gae.__name__)
"""


def test_functional_imports_without_lightning_and_transformers():
    run = subprocess.run([sys.executable, "-c", BLOCKER], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "gae"
