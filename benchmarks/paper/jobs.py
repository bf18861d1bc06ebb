"""Jobs that need one another, several at a time, each done once: what has ended well is not repeated."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """Something to do once.

    Attributes:
        name: unique, for instance `1/sft`.
        needs: names of the jobs before it.
        work: does it; raises if it fails.
        makes: directories that a run that was cut off may have left half done; removed before the work.
    """

    name: str
    needs: Sequence[str]
    work: Callable[[], None]
    makes: Sequence[Path] = ()


class Ledger:
    """Which jobs are done, and how long each took: one small file per job.

    Args:
        directory: of the files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check_sources(self, sources: Sequence[Path], versions: Mapping[str, str] | None = None) -> None:
        """Note what files say what the jobs are, and versions of libraries, or check that they are still the same.

        Raises:
            ValueError: some have changed since the first job, or nothing says what they were: what is done would be mixed
                with something else.
        """
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(sources)} | dict(
            versions or {}
        )
        noted = self.directory / "sources.txt"
        if not noted.is_file() and any(self.directory.glob("*.json")):
            raise ValueError(
                f"{self.directory} says what is done, but not with which sources: move {self.directory.parent} away"
            )
        if noted.is_file():
            before = json.loads(noted.read_text(encoding="utf-8"))
            changed = sorted(name for name in {*found, *before} if found.get(name) != before.get(name))
            if changed:
                raise ValueError(
                    f"{self.directory.parent} was begun with other {', '.join(changed)}: move it away, or give another --work"
                )
            return  # and is not written again: several jobs look at it at once
        self.directory.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(found) + "\n", encoding="utf-8")

    def file(self, name: str) -> Path:
        """The file that says a job is done."""
        return self.directory / f"{name.replace('/', '-')}.json"

    def seconds(self) -> dict[str, float]:
        """Of all jobs that are done."""
        rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(self.directory.glob("*.json"))]
        return {row["name"]: row["seconds"] for row in rows}

    def do(self, job: Job) -> None:
        """Do a job, and note it."""
        for made in job.makes:
            shutil.rmtree(made, ignore_errors=True)
        begin = time.perf_counter()
        job.work()
        row = {"name": job.name, "seconds": round(time.perf_counter() - begin, 2)}
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file(job.name).write_text(json.dumps(row) + "\n", encoding="utf-8")


def run(
    jobs: Sequence[Job], ledger: Ledger, lanes: int, behind_each: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Do all jobs, `lanes` at a time, in the order given where their needs allow it.

    Args:
        jobs: all of them; what the ledger knows is left out.
        ledger: what is done already.
        lanes: jobs at a time.
        behind_each: called when a job has ended, well or not.

    Returns:
        name -> why it failed, or which of its needs did; empty if all is done.

    Raises:
        ValueError: two jobs of one name, a need that no job meets, or needs in a circle.
    """
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = sorted({need for job in jobs for need in job.needs} - set(names))
    if twice or missing:
        raise ValueError(f"jobs of one name: {twice}; needs that no job meets: {missing}")
    done = {name for name in names if ledger.file(name).is_file()}
    waiting = [job for job in jobs if job.name not in done]
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(lanes) as pool:
        running: dict[Future[None], Job] = {}
        while waiting or running:
            for job in list(waiting):
                broken = [need for need in job.needs if need in failed]
                if broken:
                    failed[job.name] = f"needs {', '.join(broken)}"
                    waiting.remove(job)
                elif len(running) < lanes and all(need in done for need in job.needs):
                    print(f"{time.strftime('%H:%M:%S')} {job.name}", flush=True)
                    running[pool.submit(ledger.do, job)] = job
                    waiting.remove(job)
            if not running:
                if waiting and not any(need in failed for job in waiting for need in job.needs):
                    raise ValueError(f"needs in a circle: {', '.join(job.name for job in waiting)}")
                continue
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                behind_each()
                error = future.exception()
                if error is None:
                    done.add(job.name)
                else:
                    failed[job.name] = f"{type(error).__name__}: {error}"
                    print(f"{time.strftime('%H:%M:%S')} {job.name} failed: {error}", flush=True)
    return failed
