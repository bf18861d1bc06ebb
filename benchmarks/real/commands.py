"""Public commands, each run once for the same arguments, files and models."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lit_instructgpt
from lit_instructgpt.hashes import hash_of


class Commands:
    """Runs commands of lit-instructgpt and notes what each was given, so that an interrupted run goes on where it was.

    Args:
        work: directory of the notes, `NAME.command.json`.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, args: Sequence[str], inputs: Sequence[Path], made: Path) -> None:
        """Run a command unless it has ended well before with these arguments and inputs, and what it made is there.

        A directory that it would write to is moved away first: `DIR.1`, `DIR.2`, ...

        Args:
            name: of the note.
            args: of `lit-instructgpt`.
            inputs: files and directories that it reads; known by their hashes, as are its configs.
            made: what it writes; its parent is moved where it holds an `export`.

        Raises:
            SystemExit: it failed.
        """
        line = f"lit-instructgpt {' '.join(args)}"
        note = self.work / f"{name}.command.json"
        configs = [Path(args[i + 1]) for i, arg in enumerate(args) if arg == "--config"]
        given = {"command": line, "version": lit_instructgpt.__version__, "package": package(),
                 "inputs": {str(path): hash_of(path) for path in [*inputs, *configs]}}  # fmt: skip
        stored = json.loads(note.read_text(encoding="utf-8")) if note.is_file() and made.exists() else {}
        if {key: stored.get(key) for key in given} != given:
            note.unlink(missing_ok=True)
            make_room(made.parent if made.name == "export" else made)
            print(f"\n== {name}: {line}", flush=True)
            begin = time.perf_counter()
            code = subprocess.run([sys.executable, "-m", "lit_instructgpt", *args], check=False).returncode
            if code:
                raise SystemExit(f"{name} ended with exit code {code}")
            stored = {**given, "seconds": round(time.perf_counter() - begin, 1)}
            note.write_text(json.dumps(stored) + "\n", encoding="utf-8")
        self.lines[name], self.seconds[name] = line, stored["seconds"]


def package() -> str:
    """Hash of the package's sources: what one made is not mixed with what another goes on with."""
    return hash_of(Path(lit_instructgpt.__file__).parent, ["*.py"])


def commit() -> str | None:
    """Of the package and the benchmarks, where git knows it and they are as it has them."""
    root = Path(__file__).resolve().parent.parent.parent
    places = ["lit_instructgpt", "configs", "benchmarks/real", "benchmarks/*.py"]
    git = ["git", "-C", str(root)]
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", *places], capture_output=True, check=False
    ).returncode
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if changed == 0 and found.returncode == 0 else None


def options(parser: argparse.ArgumentParser, args: argparse.Namespace, left_out: Sequence[str]) -> str:
    """The options that differ from their defaults, as a command line has them; those left out are of this machine."""
    found = ""
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest not in left_out and value not in (action.default, argparse.SUPPRESS):
            found += f" {action.option_strings[0]} {' '.join(map(str, value)) if isinstance(value, list) else value}"
    return found


def make_room(path: Path) -> None:
    """Move what is there to the next free `PATH.N`."""
    number = 1
    while path.exists():
        earlier = path.with_name(f"{path.name}.{number}")
        if not earlier.exists():
            path.rename(earlier)
            print(f"{path} is of another or an interrupted run: moved to {earlier}")
        number += 1
