"""Any bytes: every line is accepted or reported as file:line, and nothing else is raised."""

import gzip
import json
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_instructgpt.records import (
    Comparison,
    Demonstration,
    Prompt,
    RecordError,
    RecordReader,
    Text,
    read_records,
)

LINES_PER_FILE = 40
FILES = 260  # 10,400 lines
TURNS = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q"}]
REPLIES = [{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]
VALID = {
    Demonstration: [
        {
            "prompt": "Say hi",
            "response": "hi",
            "id": "1",
            "user": "u",
            "split": "train",
            "meta": {"a": [1.5, None]},
        },
        {"prompt": TURNS, "completion": REPLIES[0]},
        {"messages": [*TURNS, *REPLIES[0]]},
    ],
    Comparison: [
        {"prompt": "Say hi", "responses": ["hi", "no", "\u00e9"], "ranking": [1, 3, 3], "labeler": "w"},
        {"prompt": "Say hi", "chosen": "hi", "rejected": "no", "source": "s"},
        {"chosen": [*TURNS, *REPLIES[0]], "rejected": [*TURNS, *REPLIES[1]]},
    ],
    Prompt: [{"prompt": "Say hi", "id": "1"}, {"prompt": TURNS}, {"messages": TURNS, "extra": {"prompt": 1}}],
    Text: [{"text": "Once upon a time", "source": "book"}],
}
FIELDS = sorted({key for rows in VALID.values() for row in rows for key in row})
ODD_VALUES = st.sampled_from(
    [
        *[None, True, 0, -1, 1.0, 10**400, float("nan"), float("inf")],
        *["", " \n", "\0", "\ud800", "x"],
        *[[], {}, [[]], [None], ["a"], ["a", "a"], [1, 2], [0, 1], [1, 1], [True, 2]],
        *[{"role": "user"}, [{"role": "user", "content": 1}]],
    ]
)
ODD_BYTES = st.sampled_from(
    [
        *[b"\xef\xbb\xbf", b"\0", b"\r", b"\r\n", b"\n", b"\xff", b"\xed\xa0\x80", b"\xc2\x85"],
        *[b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000],
        *[b'"', b"\\", b"{", b"}", b",", b"\xe2\x80\xa8"],
    ]
)


def change_object(draw, row: dict) -> bytes:
    """One change to the parsed row: a key removed, renamed, repeated, or its value replaced."""
    row = dict(row)
    key = draw(st.sampled_from(sorted(row)))
    what = draw(st.integers(0, 4))
    if what == 0:
        del row[key]
    elif what == 1:
        row[draw(st.sampled_from([key[:-1], key + "s", key.upper(), "\ud800", "", *FIELDS]))] = row.pop(key)
    elif what == 2:
        return (json.dumps(row)[:-1] + f", {json.dumps(key)}: {json.dumps(draw(ODD_VALUES))}}}").encode()
    elif what == 3:
        row[draw(st.sampled_from(FIELDS))] = draw(ODD_VALUES)
    else:
        row[key] = draw(ODD_VALUES)
    return json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def change_bytes(draw, line: bytes) -> bytes:
    """One change to the bytes: flipped, cut, removed, inserted, or the line twice."""
    place = draw(st.integers(0, len(line)))
    what = draw(st.integers(0, 4))
    if what == 0:
        return line[:place] + bytes([draw(st.integers(0, 255))]) + line[place + 1 :]
    if what == 1:
        return line[:place]
    if what == 2:
        return line[:place] + line[place + draw(st.integers(1, 6)) :]
    if what == 3:
        return line[:place] + draw(ODD_BYTES) + line[place:]
    return line + line


@st.composite
def files(draw) -> tuple[type, bytes]:
    """A kind and a file of mutated lines of that kind."""
    kind = draw(st.sampled_from(list(VALID)))
    lines = []
    for _ in range(LINES_PER_FILE):
        row = draw(st.sampled_from(VALID[kind]))
        what = draw(st.integers(0, 8))
        line = json.dumps(row).encode() if what % 2 else change_object(draw, row)
        lines.append(change_bytes(draw, line) if what > 4 else line)
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    return kind, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + end.join(lines) + draw(st.sampled_from([b"", end]))


def number_of_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def total(report) -> int:
    return report.accepted + len(report.bad) + len(report.set_aside) + report.other_split + report.blank


SEEN = {"lines": 0, "bad": 0, "accepted": 0}
QUICK = settings(max_examples=FILES, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def check(path: Path, kind: type, lines: int) -> None:
    try:
        records, report = read_records(path, kind, max_listed=10**6)
    except RecordError as error:
        report = error.report
        records = [None] * report.accepted
        listed = str(error).splitlines()
        problems = sum(len(bad.problems) for bad in report.bad)
        assert len(listed) == problems + 2
        pattern = re.compile(re.escape(str(path)) + r":\d+: [^:]+: .+")
        assert all(pattern.fullmatch(line) and line.isprintable() for line in listed[:problems])
        assert all(len(line) < len(str(path)) + 400 for line in listed[:problems])
    assert report.lines == lines == total(report)
    assert len(records) == report.accepted
    assert len({bad.line for bad in report.bad + report.set_aside}) == len(report.bad) + len(report.set_aside)
    for key, value in (("lines", lines), ("bad", len(report.bad)), ("accepted", report.accepted)):
        SEEN[key] += value


def test_every_mutated_line_is_accepted_or_reported(tmp_path):
    SEEN.update(lines=0, bad=0, accepted=0)
    path = tmp_path / "data.jsonl"

    @QUICK
    @given(files())
    def run(drawn: tuple[type, bytes]) -> None:
        kind, data = drawn
        path.write_bytes(data)
        check(path, kind, number_of_lines(data))

    run()
    assert SEEN["lines"] >= 10_000
    assert SEEN["bad"] > 2000  # the mutations bite,
    assert SEEN["accepted"] > 2000  # and do not spoil everything


def test_reported_lines_are_the_bad_ones(tmp_path):
    """Each line alone gets the same verdict as in its file, so the line numbers are right."""
    path, alone = tmp_path / "data.jsonl", tmp_path / "alone.jsonl"

    @settings(QUICK, max_examples=15)
    @given(files())
    def run(drawn: tuple[type, bytes]) -> None:
        kind, data = drawn
        path.write_bytes(data)
        whole = RecordReader(kind, {})
        whole.read(path)
        bad = {one.line: one.problems for one in whole.report.bad}
        for number, line in enumerate(data.split(b"\n")[: whole.report.lines], start=1):
            if number > 1 and line.startswith(b"\xef\xbb\xbf"):
                continue
            alone.write_bytes(line)
            single = RecordReader(kind, {})
            single.read(alone)
            problems = bad.get(number, ())
            repeated = bool(problems) and "already used" in problems[0].problem
            assert bool(single.report.bad) == (bool(problems) and not repeated)

    run()


def test_any_bytes_and_damaged_gzip(tmp_path):
    good = b"".join(json.dumps(row).encode() + b"\n" for row in VALID[Demonstration] * 5)
    zipped = gzip.compress(good, mtime=0)
    path, raw = tmp_path / "data.jsonl.gz", tmp_path / "data.jsonl"

    @QUICK
    @given(st.integers(0, len(zipped)), st.binary(max_size=8), st.booleans(), st.binary(max_size=300))
    def run(place: int, put: bytes, cut: bool, data: bytes) -> None:
        path.write_bytes(zipped[:place] + put + (b"" if cut else zipped[place + len(put) :]))
        raw.write_bytes(data)
        for one in (path, raw):
            for kind in VALID:
                reader = RecordReader(kind, {})
                reader.read(one)
                assert reader.report.lines == total(reader.report)

    run()
