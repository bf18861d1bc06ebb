"""Checkpoint directories: whole or not at all, and never believed unseen."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_instructgpt.checkpoints import directory
from lit_instructgpt.checkpoints.directory import (
    MANIFEST,
    MOMENTS,
    CheckpointError,
    NoValidCheckpoint,
    begin,
    checkpoints,
    name_of,
    newest,
    prune,
    seal,
    step_of,
    verify,
)


class Crash(BaseException):
    """The process ends here, without cleaning up."""


def save(folder: Path, step: int, keep: int = 2) -> Path:
    path = folder / name_of(step)
    partial = begin(path)
    (partial / "a.bin").write_bytes(bytes([step]) * 100)
    (partial / "b.json").write_text(json.dumps({"step": step}))
    seal(partial, path, {"step": step})
    prune(folder, keep)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_verifies_and_says_what_it_is(tmp_path: Path):
    path = save(tmp_path, 7)
    manifest = verify(path)
    assert manifest["step"] == 7
    assert manifest["files"]["a.bin"]["size"] == 100
    by_sha256sum = "d876885b7f40eae70bd1f5247a9854914fa5812ce63998e2d894a68e187967cb"  # of coreutils
    assert manifest["files"]["a.bin"]["sha256"] == by_sha256sum
    assert names(path) == ["a.bin", "b.json", MANIFEST]
    assert newest(tmp_path).path == path


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step-00000012", 12),
        ("step-123456789", 123456789),
        ("step-12", None),
        ("step-00000012.partial", None),
        ("x", None),
    ],
)
def test_names_of_steps(name: str, step: int | None):
    assert step_of(Path(name)) == step
    if step is not None:
        assert name_of(step) == name


def test_steps_are_ordered_by_number_beyond_eight_digits(tmp_path: Path):
    for step in (99_999_999, 100_000_000, 5):
        save(tmp_path, step % 251, keep=9).rename(tmp_path / name_of(step))
    assert [step_of(path) for path in checkpoints(tmp_path)] == [100_000_000, 99_999_999, 5]


def test_a_name_is_not_written_twice(tmp_path: Path):
    save(tmp_path, 7)
    with pytest.raises(FileExistsError, match="step-00000007 exists: checkpoints are not overwritten"):
        begin(tmp_path / name_of(7))


def test_the_newest_two_are_kept(tmp_path: Path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]


def test_pruning_spares_what_it_is_told_to(tmp_path: Path):
    first = save(tmp_path, 1)
    save(tmp_path, 2)
    save(tmp_path, 3)
    assert not first.exists()
    first = save(tmp_path, 4)
    save(tmp_path, 5)
    prune(tmp_path, 1, spared=[first])
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_nothing_is_pruned_while_the_newest_does_not_verify(tmp_path: Path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / name_of(2) / "a.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has 0 bytes and not 100"):
        prune(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_r2_a_crash_at_any_moment_of_a_save_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    for step in (1, 2):
        save(tmp_path, step)
    seen = []

    def crash(name: str) -> None:
        seen.append(name)
        if name == moment:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(directory, "reached", crash)
        with pytest.raises(Crash):
            save(tmp_path, 3)
    assert tuple(seen) == MOMENTS[: MOMENTS.index(moment) + 1], "every moment is named, in turn"
    expected = 3 if MOMENTS.index(moment) >= MOMENTS.index("renamed") else 2
    assert newest(tmp_path).path == tmp_path / name_of(expected)
    assert newest(tmp_path).skipped == []
    save(tmp_path, 4)
    assert names(tmp_path) == [name_of(expected), name_of(4)], "nothing is left behind"


def flip(path: Path) -> None:
    content = bytearray((path / "a.bin").read_bytes())
    content[50] ^= 1
    (path / "a.bin").write_bytes(content)


def edit(path: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    manifest.pop("sha256")
    text = json.dumps(manifest, indent=1) + "\n"
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()  # somebody who knows how
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def link(path: Path) -> None:
    (path / "a.bin").rename(path.parent / "elsewhere")
    (path / "a.bin").symlink_to(path.parent / "elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, r"a\.bin has changed since it was written \(SHA-256\)"),
    "cut": (lambda p: os.truncate(p / "a.bin", 99), r"a\.bin has 99 bytes and not 100"),
    "emptied": (lambda p: os.truncate(p / "b.json", 0), r"b\.json has 0 bytes and not"),
    "deleted": (lambda p: (p / "a.bin").unlink(), r"a\.bin is missing"),
    "added": (lambda p: (p / "c.bin").write_bytes(b"c"), r"c\.bin is not in the manifest"),
    "a directory": (lambda p: (p / "sub").mkdir(), r"sub is not in the manifest"),
    "a link": (link, r"a\.bin is no file of the directory's own"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), r"manifest\.json is missing"),
    "a cut manifest": (lambda p: os.truncate(p / MANIFEST, 40), r"manifest\.json cannot be read \(JSONDecodeError"),
    "an empty manifest": (lambda p: os.truncate(p / MANIFEST, 0), r"manifest\.json cannot be read"),
    "a manifest of bytes": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), r"manifest\.json cannot be read"),
    "a manifest that is a list": (
        lambda p: (p / MANIFEST).write_text("[]"),
        r"manifest\.json cannot be read \(TypeError",
    ),
    "a deep manifest": (lambda p: (p / MANIFEST).write_text("[" * 100_000), r"cannot be read \(RecursionError"),
    "a flipped manifest": (
        lambda p: (p / MANIFEST).write_text((p / MANIFEST).read_text().replace('"size": 100', '"size":  100')),
        r"manifest\.json has changed since it was written \(SHA-256\)",
    ),
    "another size in it": (
        lambda p: (p / MANIFEST).write_text((p / MANIFEST).read_text().replace('"size": 100', '"size": 101')),
        r"manifest\.json has changed since it was written \(SHA-256\)",
    ),
    "no files": (lambda p: edit(p, lambda m: m.pop("files")), r"cannot be read \(KeyError"),
    "a way out": (lambda p: edit(p, lambda m: m["files"].update({"../x": m["files"]["a.bin"]})), r"\.\./x is no file"),
    "another layout": (lambda p: edit(p, lambda m: m.update(format=99)), r"its layout is 99, and this version reads 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_r5_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, damage: str):
    before, path = save(tmp_path, 1), save(tmp_path, 2)
    harm, message = DAMAGES[damage]
    harm(path)
    with pytest.raises(CheckpointError, match=f"step-00000002: .*{message}"):
        verify(path)
    found = newest(tmp_path)
    assert found.path == before
    assert len(found.skipped) == 1
    assert str(path) in found.skipped[0]


def test_every_problem_of_a_directory_is_named(tmp_path: Path):
    path = save(tmp_path, 1)
    (path / "a.bin").unlink()
    (path / "b.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a\.bin is missing; b\.json has 2 bytes and not"):
        verify(path)


def test_none_that_can_be_used_is_another_error_than_none_at_all(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        newest(tmp_path)
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    flip(second)
    (first / MANIFEST).unlink()
    with pytest.raises(NoValidCheckpoint, match=r"step-00000002: a\.bin has changed.*step-00000001: manifest"):
        newest(tmp_path)
