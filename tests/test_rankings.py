"""Win rates by recorded rankings, against numbers worked out by hand and loops over the shared data."""

import gzip
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import documented

from lit_instructgpt.cli import main
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.evaluation import ranked
from lit_instructgpt.evaluation.rankings import rankings
from lit_instructgpt.evaluation.statistics import bootstrap_ci, length_controlled_win_rate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
Row = dict[str, Any]

ROWS: list[Row] = [
    {
        "prompt": "one", "responses": ["aaaa", "bb", "c"], "systems": ["A", "B", "C"], "ranking": [1, 2, 2],
        "labeler": "ann", "scores": [7, 5, None], "harmful": [True, False, False], "note": "x", "votes": [1, 2, 3],
    },
    {
        "prompt": "one", "responses": ["bb", "c", "aaaa"], "systems": ["B", "C", "A"], "ranking": [1, 3, 2],
        "labeler": "bob", "scores": [4, 3.5, 6], "harmful": None, "votes": [1],
    },
    {"prompt": "two", "responses": ["aa", "bbbbb"], "systems": ["A", "B"], "ranking": [2, 1], "labeler": "ann"},
    {"prompt": "three", "responses": ["", "a"], "systems": ["C", "A"], "ranking": [1, 1], "harmful": [None, True]},
    {"prompt": "four", "responses": ["aa", "bbbbb"], "ranking": [2, 1], "labeler": "ann"},
]  # fmt: skip


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said about what is not used."""
    lines: list[str] = []
    monkeypatch.setattr(ranked, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def compare(tmp_path: Path, write_jsonl: Callable[..., str]) -> Callable[..., Row]:
    """``compare(rows, baseline="B", ...)``: the report."""

    def run(rows: list[Row], baseline: str = "B", **settings: Any) -> Row:
        source = write_jsonl(tmp_path / "r.jsonl", rows)
        return rankings(source, baseline, str(tmp_path / "out.json"), **settings)

    return run


# ------------------------------------------------------------------ by hand


def test_win_rates_by_hand(compare: Callable[..., Row]):
    """A against B: won, lost, lost. A against C: won, won, tied. C against B: tied, lost."""
    report = compare(ROWS)
    matrix = report["matrix"]
    rates = {(a, b): entry["win_rate"] for a, row in matrix.items() for b, entry in row.items()}
    assert rates == pytest.approx(
        {
            ("A", "B"): 1 / 3, ("B", "A"): 2 / 3,
            ("A", "C"): 2.5 / 3, ("C", "A"): 0.5 / 3,
            ("C", "B"): 0.5 / 2, ("B", "C"): 1.5 / 2,
        }
    )  # fmt: skip
    assert matrix["A"]["C"]["tie_rate"] == pytest.approx(1 / 3)
    assert matrix["B"]["A"]["characters_longer"] == pytest.approx((-2 - 2 + 3) / 3)
    counts = [matrix["A"]["C"][key] for key in ("num_rankings", "num_prompts", "num_labelers")]
    assert counts == [3, 2, 3], "two prompts; ann, bob and one who is not named"
    assert {name: row["against_baseline"] and row["against_baseline"]["win_rate"] for name, row in report["systems"].items()} == {
        "A": pytest.approx(1 / 3), "B": None, "C": 0.25,
    }  # fmt: skip


def test_win_rates_of_each_labeler_by_hand(compare: Callable[..., Row]):
    report = compare(ROWS)
    found = report["systems"]["A"]["against_baseline"]["per_labeler"]
    assert {name: (row["win_rate"], row["num_rankings"], row["num_prompts"]) for name, row in found.items()} == {
        "ann": (0.5, 2, 2),
        "bob": (0.0, 1, 1),
    }
    mirrored = compare(ROWS, baseline="A")["systems"]["B"]["against_baseline"]["per_labeler"]
    assert {name: row["win_rate"] for name, row in mirrored.items()} == {"ann": 0.5, "bob": 1.0}
    assert set(compare(ROWS, baseline="C")["systems"]["A"]["against_baseline"]["per_labeler"]) == {
        "ann",
        "bob",
        "unknown",
    }


def test_intervals_are_over_whole_prompts_and_lengths_are_in_characters(compare: Callable[..., Row]):
    matrix = compare(ROWS, seed=3)["matrix"]
    wins, longer_by, prompts = np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, -3.0]), [0, 0, 1]
    assert matrix["A"]["B"]["ci95"] == bootstrap_ci(wins, prompts, seed=3)
    rate, interval = length_controlled_win_rate(wins, longer_by, prompts, seed=3)
    assert matrix["A"]["B"]["length_controlled_win_rate"] == pytest.approx(rate)
    assert matrix["A"]["B"]["ci95_length_controlled_win_rate"] == pytest.approx(interval)
    other = matrix["B"]["A"]
    assert other["ci95"] == pytest.approx(bootstrap_ci(1 - wins, prompts, seed=3))
    rate, interval = length_controlled_win_rate(1 - wins, -longer_by, prompts, seed=3)
    assert other["length_controlled_win_rate"] == pytest.approx(rate)
    assert other["ci95_length_controlled_win_rate"] == pytest.approx(interval)


def test_means_of_what_is_said_of_each_response(compare: Callable[..., Row], said: list[str]):
    report = compare(ROWS)
    means = {name: row["means"] for name, row in report["systems"].items()}
    assert {name: row["scores"]["mean"] for name, row in means.items()} == {"A": 6.5, "B": 4.5, "C": 3.5}
    assert {name: row["scores"]["num"] for name, row in means.items()} == {"A": 2, "B": 2, "C": 1}
    assert {name: row["harmful"]["mean"] for name, row in means.items()} == {"A": 1.0, "B": 0.0, "C": 0.0}
    assert (means["A"]["harmful"]["num"], means["A"]["harmful"]["num_prompts"]) == (2, 2)
    assert means["A"]["scores"]["ci95"] == [6.5, 6.5], "one prompt"
    assert all(set(row) == {"scores", "harmful"} for row in means.values())
    assert report["systems"]["A"]["characters"] == pytest.approx((4 + 4 + 2 + 1) / 4)
    assert (report["systems"]["C"]["num_responses"], report["systems"]["C"]["num_prompts"]) == (3, 2)
    votes = [line for line in said if line.startswith("votes: not averaged, since 1 of 2 rankings")]
    assert len(votes) == 1
    assert votes[0].endswith("r.jsonl:2")
    assert "fields not used: note" in said


def test_a_field_of_nulls_has_no_mean(compare: Callable[..., Row]):
    rows = [{**ROWS[2], "flag": [None, 1]}]
    means = compare(rows)["systems"]["A"]["means"]
    assert means == {"flag": {"mean": None, "ci95": None, "num": 0, "num_prompts": 0}}


def test_labelers_agree_by_hand(compare: Callable[..., Row]):
    """ann: A before B and C, which tie. bob: B, A, C. So they differ on A and B, and agree on A and C."""
    agreement = compare(ROWS)["agreement"]
    assert agreement == {
        "agreement": 0.5, "ci95": [0.5, 0.5], "num_pairs": 2, "num_tied": 1, "num_prompts": 1, "num_rankings": 2,
        "num_without_labeler": 0,
    }  # fmt: skip
    assert compare(ROWS[2:])["agreement"] is None


def test_the_report_is_what_is_written(compare: Callable[..., Row], tmp_path: Path, said: list[str]):
    report = compare(ROWS, seed=5)
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert (report["kind"], report["baseline"], report["seed"]) == ("rankings", "B", 5)
    assert (report["num_rankings"], report["num_without_systems"], report["num_of_other_criteria"]) == (4, 1, 0)
    assert "1 of 5 rankings have no `systems`, one name per response, and are left out" in said
    assert report["files"]["rankings"]["rows"] == 5
    assert len(report["files"]["rankings"]["sha256"]) == 64
    assert {"lit-instructgpt", "torch"} <= set(report["versions"])


def test_every_key_is_documented(compare: Callable[..., Row]):
    report = compare(ROWS)
    system = report["systems"]["A"]
    keys = {*report, *system, *system["against_baseline"]} - {"per_labeler"}
    assert documented("Recorded rankings") == keys
    assert set(system["means"]["scores"]) == {"mean", "ci95", "num", "num_prompts"}
    assert set(system["against_baseline"]["per_labeler"]["ann"]) == {"win_rate", "ci95", "num_rankings", "num_prompts"}


# ------------------------------------------------------------------ what the data may hold


def test_a_system_with_several_responses_wins_by_the_share_of_their_pairs(compare: Callable[..., Row]):
    """A at 1 and 4, B at 2 and 4: won, won, lost, tied."""
    rows = [
        {"prompt": "p", "responses": ["a", "bbb", "aa", "bb"], "systems": ["A", "B", "A", "B"], "ranking": [1, 2, 4, 4]}
    ]
    entry = compare(rows)["matrix"]["A"]["B"]
    assert entry["win_rate"] == pytest.approx(2.5 / 4)
    assert entry["tie_rate"] == pytest.approx(1 / 4)
    assert entry["characters_longer"] == pytest.approx(1.5 - 2.5)
    assert entry["num_rankings"] == 1


def test_a_text_that_several_wrote_counts_for_each(compare: Callable[..., Row], said: list[str]):
    rows = [
        {"prompt": "p", "responses": ["x", "yy"], "systems": ["A+B", "C"], "ranking": [1, 2]},
        {"prompt": "q", "responses": ["a", "b", "c"], "systems": ["A", "B", "C"], "ranking": [2, 1, 3]},
    ]
    joined = compare(rows, joined_by="+")["matrix"]
    assert set(joined) == {"A", "B", "C"}
    assert joined["A"]["B"]["win_rate"] == pytest.approx((0.5 + 0) / 2)
    assert joined["A"]["C"]["win_rate"] == 1
    assert not any("joined_by" in line for line in said)
    apart = compare(rows)["matrix"]
    assert set(apart) == {"A+B", "A", "B", "C"}
    assert apart["A+B"]["A"] is None, "they never met"
    assert any(line.startswith("A+B: taken for systems of their own") and "--joined_by +" in line for line in said)


def test_a_report_that_cannot_be_written_is_refused_before_reading(tmp_path: Path):
    with pytest.raises(ValueError, match="is a directory: give the file to write"):
        rankings(str(tmp_path / "nowhere.jsonl"), "A", str(tmp_path))


def test_a_system_that_always_writes_more_has_no_win_rate_at_equal_lengths(compare: Callable[..., Row]):
    rows = [
        {"prompt": str(i), "responses": ["a", "a b c d"], "systems": ["A", "B"], "ranking": [1 + i % 2, 2 - i % 2]}
        for i in range(4)
    ]
    for meeting in (compare(rows)["matrix"][a][b] for a, b in (("A", "B"), ("B", "A"))):
        assert meeting["win_rate"] == 0.5
        assert meeting["length_controlled_win_rate"] is meeting["ci95_length_controlled_win_rate"] is None


def test_one_criterion_of_several(compare: Callable[..., Row], said: list[str]):
    rows = [
        {**ROWS[2], "criterion": "style"},
        {**ROWS[2], "criterion": "truth", "ranking": [1, 2], "labeler": "bob"},
        {**ROWS[2], "ranking": [1, 2]},
    ]
    together = compare(rows)
    assert together["matrix"]["A"]["B"]["win_rate"] == pytest.approx(2 / 3)
    assert together["agreement"] is None, "of different things"
    assert any("several criteria taken together: style (1), truth (1), None (1)" in line for line in said)
    report = compare(rows, criterion="style")
    assert report["matrix"]["A"]["B"]["win_rate"] == 0
    assert (report["num_rankings"], report["num_of_other_criteria"]) == (1, 2)
    assert "criterion: 2 of 3 rankings have another one" in said
    with pytest.raises(ValueError, match=r"no ranking has 'tone'; there are: style \(1\), truth \(1\)"):
        compare(rows, criterion="tone")


def test_what_evaluate_writes_and_labelers_complete(tmp_path: Path, write_jsonl: Callable[..., str]):
    """A file of shuffled responses; each labeler returns a copy with ``ranking`` and a name, ids and all."""
    given = [
        {"id": "1", "prompt": "one", "use_case": "qa", "responses": ["x", ""], "systems": ["ppo", "sft"]},
        {"id": "2", "prompt": [{"role": "user", "content": "two"}], "responses": ["y", "y"], "systems": ["sft", "ppo"]},
    ]
    files = []
    for name, ranks in {"ann": [[1, 2], [1, 1]], "bob": [[2, 1], [1, 1]]}.items():
        rows = [{**row, "ranking": ranking, "labeler": name} for row, ranking in zip(given, ranks, strict=True)]
        files.append(write_jsonl(tmp_path / f"{name}.jsonl", rows))
    report = rankings(files, "sft", str(tmp_path / "out.json"))
    entry = report["systems"]["ppo"]["against_baseline"]
    assert (entry["win_rate"], entry["num_rankings"], entry["num_prompts"]) == (0.5, 4, 2)
    assert {name: row["win_rate"] for name, row in entry["per_labeler"].items()} == {"ann": 0.75, "bob": 0.25}
    assert report["agreement"]["agreement"] == 0
    assert [len(report["files"]["rankings"][key]) for key in ("path", "sha256")] == [2, 2]


def test_the_command(tmp_path: Path, write_jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    rows = [{**ROWS[0], "systems": ["[bold]", "B", "[/]"]}]  # names are shown as they are
    files = [write_jsonl(tmp_path / "a.jsonl", rows), write_jsonl(tmp_path / "b.jsonl", rows)]
    out = tmp_path / "new" / "out.json"
    main(["rankings", "--rankings", f"[{', '.join(files)}]", "--baseline", "B", "--out", str(out), "--seed", "1"])
    printed = capsys.readouterr().out
    assert "[bold]" in printed
    assert "1.000 (1.000," in printed
    assert "fewer than 30 prompts are too narrow" in printed
    assert json.loads(out.read_text())["num_rankings"] == 2


# ------------------------------------------------------------------ refusals


def refused(rows: list[Row], **changes: Any) -> list[Row]:
    return [rows[0], {**rows[1], **changes}]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (ROWS, {"baseline": "sft"}, r"baseline: no response is by 'sft'; the systems are: A, B, C"),
        (ROWS[4:], {}, r"1 of 1 rankings have no `systems`.*first at .*r\.jsonl:1"),
        (refused(ROWS, systems=["A", "B"]), {}, r"l:2: systems: needs one name per response, found list of 2: 2 names for 3"),
        (refused(ROWS, systems="A"), {}, r"r\.jsonl:2: systems: needs one name per response, found 'A'"),
        (refused(ROWS, systems=["A", 3, "B"]), {}, r"l:2: systems\[1\]: must be the name of who wrote responses\[1\], found 3"),
        (refused(ROWS, systems=["A", " ", "B"]), {}, r"systems\[1\]: must be the name"),
        (refused(ROWS, systems=["A", "B", "B+"]), {"joined_by": "+"}, r"systems\[2\]: must be the name"),
        (refused(ROWS, ranking=None), {}, r"r\.jsonl:2: ranking: missing"),
        (refused(ROWS, responses=["bb", "bb", "aaaa"]), {}, r"l:2: ranking: .* are the same text under two different"),
        ([{**ROWS[2], "systems": ["B", "B"]}], {}, r"all responses are by 'B': there is nothing to compare"),
    ],
)  # fmt: skip
def test_mistakes_are_named(compare: Callable[..., Row], tmp_path: Path, rows: list[Row], settings: Row, message: str):
    with pytest.raises(ValueError, match=message):
        compare(rows, **settings)
    assert not (tmp_path / "out.json").exists()


def test_mistakes_are_named_together(compare: Callable[..., Row]):
    with pytest.raises(ValueError, match=r"r\.jsonl:1: systems") as caught:
        compare([{**ROWS[0], "systems": ["A"]}] * 30)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 10 more"


def test_bad_lines_can_be_left_out(compare: Callable[..., Row], tmp_path: Path):
    reading = Reading(skip_bad_records=True, rejects=str(tmp_path / "bad.jsonl"))
    report = compare(refused(ROWS, ranking=[1]), reading=reading)
    assert report["num_rankings"] == 1
    assert json.loads((tmp_path / "bad.jsonl").read_text())["line"] == 2


# ------------------------------------------------------------------ rankings by people


def shared_rows(name: str) -> tuple[str, list[Row]]:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name} of the shared data beside the repository")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return str(path), [json.loads(line) for line in stream]


def brute_force(rows: list[Row], first: str, second: str) -> tuple[float, int, int]:
    """Win rate, rankings and prompts of two systems, a text of ``a+b`` being by both."""
    wins, prompts = [], set()
    for row in rows:
        own = [k for k, name in enumerate(row["systems"]) if first in name.split("+")]
        other = [k for k, name in enumerate(row["systems"]) if second in name.split("+")]
        points = []
        for i in own:
            for j in other:
                a, b = row["ranking"][i], row["ranking"][j]
                points.append(1.0 if a < b else 0.0 if a > b else 0.5)
        if points:
            wins.append(sum(points) / len(points))
            prompts.add(row["prompt"])
    return sum(wins) / len(wins), len(wins), len(prompts)


@pytest.mark.parametrize(
    ("name", "baseline", "criterion"),
    [
        ("eval/human_pairs/pandalm.jsonl.gz", "llama-7b", None),
        ("eval/human_pairs/pandalm_kwise.jsonl.gz", "llama-7b", None),
        ("eval/human_pairs/tulu1.jsonl.gz", "chatgpt", None),
        ("comparisons/data2text_rankme.jsonl.gz", "baseline", "quality"),
        ("comparisons/data2text_emnlp17.jsonl.gz", "WEN", "quality"),
    ],
)
def test_rankings_by_people(tmp_path: Path, name: str, baseline: str, criterion: str | None):
    path, rows = shared_rows(name)
    rows = [row for row in rows if row.get("criterion") == criterion]
    report = rankings(path, baseline, str(tmp_path / "out.json"), criterion=criterion, joined_by="+")
    systems = {part for row in rows for one in row["systems"] for part in one.split("+")}
    assert set(report["matrix"]) == systems
    assert report["num_rankings"] == len(rows)
    met = 0
    for a, b in combinations(sorted(systems), 2):
        entry = report["matrix"][a][b]
        if entry is None:
            with pytest.raises(ZeroDivisionError):
                brute_force(rows, a, b)
            continue
        met += 1
        rate, num, prompts = brute_force(rows, a, b)
        assert entry["win_rate"] == pytest.approx(rate)
        assert (entry["num_rankings"], entry["num_prompts"]) == (num, prompts)
        assert entry["ci95"][0] < rate < entry["ci95"][1]
    assert met >= len(systems) - 1
    for system in systems if "scores" in rows[0] else ():
        scores = [
            score for row in rows for score, one in zip(row["scores"], row["systems"], strict=True) if system in one.split("+")
        ]  # fmt: skip
        assert report["systems"][system]["means"]["scores"]["mean"] == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize("name", ["eval/human_pairs/tulu1.jsonl.gz", "comparisons/data2text_rankme.jsonl.gz"])
def test_people_agree_as_counted_over_all_pairs_of_lines(tmp_path: Path, name: str):
    path, rows = shared_rows(name)
    agreed = total = 0
    for one, other in combinations(rows, 2):
        same = one["prompt"] == other["prompt"] and one.get("criterion") == other.get("criterion")
        if not same or one["labeler"] == other["labeler"] or set(one["responses"]) != set(other["responses"]):
            continue
        first, second = (dict(zip(row["responses"], row["ranking"], strict=True)) for row in (one, other))
        for a, b in combinations(sorted(first), 2):
            if first[a] != first[b] and second[a] != second[b]:
                total += 1
                agreed += (first[a] < first[b]) == (second[a] < second[b])
    baseline = rows[0]["systems"][0]
    agreement = rankings(path, baseline, str(tmp_path / "out.json"))["agreement"]
    assert (agreement["num_pairs"], agreement["agreement"]) == (total, pytest.approx(agreed / total))
    assert agreement["ci95"][0] < agreement["agreement"] < agreement["ci95"][1]
