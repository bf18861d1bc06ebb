from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from lit_instructgpt.report import read_scalars, write_report
from lit_instructgpt.report.charts import thin
from lit_instructgpt.report.numbers import decimal, duration, number, percent, percent_range
from lit_instructgpt.report.svg import ticks

VOID = {"meta", "link", "br"}
EVIL = "<script>alert('x')</script> & \"quotes\" \x00\x1b \ud800 </svg>"


def model(win: float | None, **more: Any) -> dict[str, Any]:
    histogram = {"edges": [0, 10, 20, 30], "counts": [100, 500, 100]}
    metrics = {"follows_instruction": 0.7, "hallucination": 0.2, "satisfies_constraint": 0.65, "likert": 4.9}
    rest = {
        "rm_score": 1.25,
        "kl_to_init": 12.0,
        "text_loss": 2.1,
        "response_tokens": 14.25,
        "stop_rate": 0.99,
    }
    return {
        "win_rate_vs_sft": win,
        **metrics,
        **rest,
        "num_prompts": 700,
        "length_histogram": histogram,
        **more,
    }


REPORT: dict[str, Any] = {
    "title": "A run & its numbers",
    "seed": 17,
    "versions": {"torch": "2.10.0", "lightning": "2.6.6"},
    "hardware": "2 CPU cores",
    "command": "lit-instructgpt miniature --out <dir>",
    "seconds": {"generate": 3.2, "base": 60.1, "sft": 41, "ppo_ptx": 150, "total": 300.0},
    "agreement": {"training": 0.73, "held_out": 0.75},
    "rm": {
        "pair_accuracy": 0.683,
        "ci95": [0.66, 0.70],
        "pair_accuracy_held_out_labelers": 0.664,
        "num_pairs": 3000,
        "length_baseline": 0.551,
        "calibration": {
            "bins": [
                {"confidence": 0.55, "accuracy": 0.56, "count": 1300},
                {"confidence": 0.75, "accuracy": 0.71, "count": 400},
                {"confidence": 0.95, "accuracy": None, "count": 0},
            ],
            "ece": 0.031,
        },
        "per_source": {"closed_qa": {"accuracy": 0.704, "num_pairs": 1900}, "rare": {"accuracy": None}},
    },
    "models": {
        "base": model(0.08, ci95=[0.06, 0.1], kl_to_init=None),
        "sft": model(None, follows_instruction=0.62),
        "ppo_ptx": model(0.62, ci95=[0.59, 0.65], novel_words=1234.0),
    },
    "samples": [
        {
            "prompt": "Say what <b>you</b> see.",
            "use_case": "open_qa",
            "responses": {
                "base": {"text": EVIL, "score": -0.3, "judgement": {"follows_instruction": 0.0}},
                "sft": {"text": "", "score": None, "judgement": {"hallucination": None, "likert": 4}},
                "ppo_ptx": {"text": "A fox.", "score": 1.5, "judgement": {"hallucination": 1.0}},
            },
        }
    ],
    "something_new": object(),
}


class Page(HTMLParser):
    """Checks that tags nest, and keeps the text by heading."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def words(self) -> str:
        """The text with runs of white space, no-break spaces too, made one space."""
        return " ".join(self.text.split())


def render(tmp_path: Path, report: dict[str, Any], runs: Mapping[str, str | Path] | None = None) -> tuple[str, Page]:
    path = tmp_path / "new" / "report.html"
    write_report(report, path, runs)
    page = path.read_text(encoding="utf-8")
    return page, Page(page)


def svgs(page: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("logs")
    tags = {
        "sft": ["train/loss", "val/loss"],
        "rm": ["train/loss", "val/loss", "train/pair_accuracy", "val/pair_accuracy"],
        "ppo_ptx": ["objective/score", "objective/kl", "objective/entropy", "val/objective/score", "loss/ptx",
                    "response/length", "policy/clipfrac", "time/rollout"],
    }  # fmt: skip
    for run, names in tags.items():
        with SummaryWriter(str(root / run / "version_0")) as writer:
            for step in range(0, 100, 5):
                for tag in names:
                    writer.add_scalar(tag, 0.5 + 0.4 * math.sin(step / 20), step)
            writer.add_scalar(names[0], math.nan, 100)
    return {run: root / run for run in tags}


def test_the_numbers_are_on_the_page(tmp_path: Path, runs: dict[str, Path]) -> None:
    page, parsed = render(tmp_path, REPORT, runs)
    for expected in [
        "PPO-ptx is preferred to SFT on 62 % of 700 held-out prompts (95 % CI 59\u201365 %).",
        "The base model is preferred to SFT on 8 % of 700 held-out prompts (95 % CI 6\u201310 %).",
        "PPO-ptx follows the instruction in 70 % of responses (SFT: 62 %)",
        "The reward model ranks 68 % of 3,000 held-out pairs as the labelers did; preferring the longer "
        "response gets 55 % and two labelers agree on 73 %.",
        "All of it took 5 min 0 s on 2 CPU cores.",
        "59.0\u201365.0 %",
        "Expected calibration error 3.1 %",
        "closed qa",
        "1,900",
        "novel words",
        "1,234",
        "torch 2.10.0 \u00b7 lightning 2.6.6",
        "lit-instructgpt miniature --out <dir>",
        "mean 14.2",
        "\u22120.30",
        "\u2717 misses the instruction",
        "\u2717 hallucinates",
        "\u2013 hallucination",
        "likert 4",
        "(empty)",
    ]:
        assert expected in parsed.words
    assert parsed.tags.count("title") > 20
    assert page.count("<h1>") == 1
    # 1 win rate, 3 judged, 2 of the reward model, 3 + 6 curves, 3 lengths, 1 of time
    assert len(svgs(page)) == 19


def test_charts_draw_to_scale(tmp_path: Path) -> None:
    page, _ = render(tmp_path, {"models": {"a": model(0.25, ci95=[0.2, 0.3]), "b": model(0.5)}})
    chart = svgs(page)[0]
    widths = [float(rect.attrib["width"]) for rect in chart.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.3)
    (reference,) = [e for e in chart.iter("line") if e.attrib["class"] == "ref"]
    bar = [e for e in chart.iter("rect")][1]
    assert float(reference.attrib["x1"]) == pytest.approx(float(bar.attrib["x"]) + widths[1], abs=0.2)
    assert len([e for e in chart.iter("path") if e.attrib["class"] == "whisker"]) == 1


def test_one_file_that_fetches_nothing_and_runs_nothing(tmp_path: Path, runs: dict[str, Path]) -> None:
    page, parsed = render(tmp_path, REPORT, runs)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "script" not in parsed.tags
    links = [value for name, value in parsed.attributes if name in ("href", "src")]
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)
    assert not any(name.startswith("on") for name, _ in parsed.attributes)


def test_samples_stay_inert(tmp_path: Path) -> None:
    page, parsed = render(tmp_path, REPORT)
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert "<script>alert('x')</script> & \"quotes\" \ufffd\ufffd \ufffd </svg>" in parsed.text
    assert "Say what <b>you</b> see." in parsed.text
    assert "<title>A run &amp; its numbers</title>" in page


def test_names_stay_inert_in_charts_and_attributes(tmp_path: Path) -> None:
    report = {
        "title": EVIL,
        "hardware": EVIL,
        "versions": {EVIL: EVIL},
        "models": {EVIL: model(0.5, **{EVIL: 1.0})},
        "rm": {"per_source": {EVIL: {"accuracy": 0.5}}},
        "seconds": {EVIL: 1.0},
        "samples": [{"prompt": EVIL, "responses": {EVIL: {"judgement": {EVIL: 1.0}}}, "use_case": EVIL}],
    }
    page, parsed = render(tmp_path, report)
    assert "script" not in parsed.tags
    assert svgs(page)


@pytest.mark.parametrize("key", [k for k in REPORT if k != "something_new"])
def test_what_is_missing_is_left_out(tmp_path: Path, key: str) -> None:
    headings = {"models": "Models", "rm": "Calibration", "samples": "Samples", "seconds": "Time",
                "seed": "Seed", "versions": "Versions", "command": "Command"}  # fmt: skip
    whole, _ = render(tmp_path, REPORT)
    page, _ = render(tmp_path, {k: v for k, v in REPORT.items() if k != key})
    assert "None" not in page
    assert "nan" not in page.lower()
    if key in headings:
        assert f">{headings[key]}<" in whole.replace(" <small>", "<")
        assert f">{headings[key]}<" not in page.replace(" <small>", "<")


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"models": None, "rm": None, "samples": None, "seconds": None, "agreement": None, "versions": None},
        {"models": {}, "rm": {}, "samples": [], "seconds": {}},
        {"models": {"sft": {}, "x": None}, "samples": [{}, None], "rm": {"calibration": {"bins": [{}]}}},
    ],
)
def test_an_empty_report_is_a_title(tmp_path: Path, report: dict[str, Any]) -> None:
    page, parsed = render(tmp_path, report)
    assert parsed.tags.count("h1") == 1
    assert "h2" not in parsed.tags
    assert svgs(page) == []


@pytest.mark.parametrize("hole", [None, math.nan, math.inf, "n/a"])
def test_what_was_not_measured_is_a_dash(tmp_path: Path, hole: object) -> None:
    report = copy.deepcopy(REPORT)
    report["models"]["ppo_ptx"] |= dict.fromkeys(["win_rate_vs_sft", "rm_score", "likert", "ci95"], hole)
    report["models"]["base"]["rm_score"] = hole
    report["samples"][0]["responses"]["ppo_ptx"]["score"] = hole
    page, parsed = render(tmp_path, report)
    (row,) = re.findall(r"<tr><th[^>]*>Reward model score</th>(.*?)</tr>", page)
    assert re.findall(r"<td[^>]*>([^<]*)", row) == ["\u2013", "1.25", "\u2013"]
    assert "PPO-ptx is preferred" not in parsed.words
    for word in ("None", "NaN", "nan", "inf ", "n/a"):
        assert word not in parsed.text
    assert svgs(page)


def test_a_model_no_better_than_sft_is_called_that(tmp_path: Path) -> None:
    _, parsed = render(tmp_path, {"models": {"ppo": model(0.51, ci95=[0.48, 0.54])}})
    assert "(95 % CI 48\u201354 %), so the two cannot be told apart." in parsed.words


@pytest.mark.parametrize(
    ("wins_by", "judge"),
    [("pair_judge", "the pair judge"), ("judge", "the judge"), ("reward_model", "the reward model")],
)
def test_who_judged_is_said_beside_every_win_rate(tmp_path: Path, wins_by: str, judge: str) -> None:
    models = {"sft": model(0.5), "ppo": model(0.6, ci95=[0.57, 0.63])}
    _, parsed = render(tmp_path, {"models": models, "wins_by": wins_by})
    assert f"PPO is preferred to SFT by {judge} on 60 % of 700 held-out prompts" in parsed.words
    assert f"the model's response is preferred to that of SFT by {judge}." in parsed.words
    by_reward_model = wins_by == "reward_model"
    caution = "; a policy trained against it wins by it in any case" if by_reward_model else ""
    assert f"Preferred to SFT By {judge}{caution}. Whiskers: 95 % confidence interval." in parsed.words
    sentence = "A policy trained against this reward model wins by it in any case."
    assert (sentence in parsed.words) == by_reward_model


@pytest.mark.parametrize(("reads", "num"), [("text", 29), ("tokens", 30)])
def test_what_the_scores_are_of_and_how_few_prompts_is_said_below_the_table(
    tmp_path: Path, reads: str, num: int
) -> None:
    _, parsed = render(
        tmp_path, {"models": {"sft": model(0.5), "ppo": model(0.6)}, "rm_reads": reads, "num_prompts": num}
    )
    assert ("The reward model reads text, every response ended" in parsed.words) == (reads == "text")
    assert ("Intervals of fewer than 30 prompts are too narrow; here are 29." in parsed.words) == (num == 29)


def test_without_win_rates_there_is_no_word_on_who_wins(tmp_path: Path) -> None:
    _, parsed = render(tmp_path, {"models": {"sft": {"rm_score": 1.0}}, "wins_by": "reward_model", "seconds": {"x": 1}})
    assert "in any case" not in parsed.words


def test_only_a_report_of_all_stages_says_that_a_model_learned_in_them(tmp_path: Path) -> None:
    opening = "A language model learned to follow instructions the way InstructGPT did"
    rest = {"seconds": {"total": 3.0}}
    of_all = {"models": {name: model(0.5) for name in ("base", "sft", "ppo")}, "rm": {"pair_accuracy": 0.7}}
    assert opening in render(tmp_path, {**rest, **of_all})[1].words
    for parts in (
        {}, {"models": of_all["models"]}, {"rm": of_all["rm"]}, {**of_all, "rm": {"pair_accuracy": None}},
        *({**of_all, "models": {k: m for k, m in of_all["models"].items() if k != name}} for name in of_all["models"]),
    ):  # fmt: skip
        page, parsed = render(tmp_path, {**rest, **parts})
        assert opening not in parsed.words
        assert "<p></p>" not in page


def test_models_against_different_baselines_have_charts_of_their_own(tmp_path: Path) -> None:
    models = {"ppo": {"win_rate_vs_sft": 0.6}, "ppo_ptx": {"win_rate_vs_init": 0.7}}
    page, _ = render(tmp_path, {"models": models})
    labels = [chart.attrib["aria-label"].replace("\u00a0", " ") for chart in svgs(page)]
    assert labels == ["Preferred to SFT. PPO 60 %", "Preferred to PPO's start. PPO-ptx 70 %"]


def test_what_cannot_be_judged_everywhere_says_of_how_many_it_is(tmp_path: Path) -> None:
    sft = model(0.5, hallucination=0.3, num_hallucination=280, satisfies_constraint=0.6)
    ppo = model(0.6, hallucination=0.22, num_hallucination=1301, num_satisfies_constraint=358)
    _, parsed = render(tmp_path, {"models": {"sft": sft, "ppo": ppo}})
    assert (
        "PPO follows the instruction in 70 % of responses (SFT: 70 %), hallucinates in 22 % of the 1,301 responses where it "
        "can be judged (SFT: 30 % of 280) and satisfies the stated constraint in 65 % of the 358 responses where it can be "
        "judged (SFT: 60 %)."
    ) in parsed.words


def test_mean_lengths_stand_in_for_histograms(tmp_path: Path) -> None:
    models = {
        "sft": {"response_tokens": 12.5},
        "ppo": {"response_tokens": 20, "length_histogram": {"edges": [1]}},
    }
    _, parsed = render(tmp_path, {"models": models})
    assert "Mean response length" in parsed.words
    assert "12.5" in parsed.words


def test_many_samples_fold(tmp_path: Path) -> None:
    page, parsed = render(tmp_path, {"samples": REPORT["samples"] * 1010})
    assert "1,002 more" in parsed.words
    assert page.count('<article class="card">') == 1010


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, runs: dict[str, Path]) -> None:
    assert render(tmp_path, REPORT, runs)[0] == render(tmp_path, copy.deepcopy(REPORT), runs)[0]


def test_scalars_below_a_directory(tmp_path: Path) -> None:
    for version, offset in [("version_0", 0.0), ("version_1", 100.0)]:
        with SummaryWriter(str(tmp_path / version)) as writer:
            for step in range(10):
                wall = 1000.0 + offset + step
                writer.add_scalar("train/loss", offset + step, step + (5 if offset else 0), walltime=wall)
    scalars = read_scalars(tmp_path)
    assert [s for s, _ in scalars["train/loss"]] == list(range(15))
    assert scalars["train/loss"][4:6] == [(4, 4.0), (5, 100.0)]
    assert read_scalars(tmp_path / "nothing") == {}


def test_every_step_of_a_long_run_is_read(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(12_000):
            writer.add_scalar("train/loss", 1.0, step)
    assert len(read_scalars(tmp_path)["train/loss"]) == 12_000


def test_curves_of_several_policies_share_a_chart(tmp_path: Path, runs: dict[str, Path]) -> None:
    page, parsed = render(tmp_path, {}, {"ppo": runs["ppo_ptx"], "ppo_ptx": runs["ppo_ptx"]})
    assert "Reinforcement learning: PPO and PPO-ptx" in parsed.words
    assert [t.text for t in svgs(page)[0].iter("text")][-4:].count("PPO") == 1


def test_a_run_without_curves_is_left_out(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        writer.add_scalar("train/loss", math.nan, 0)
        writer.add_scalar("time/step", 1.0, 0)
    page, parsed = render(tmp_path, {}, {"sft": tmp_path / "logs", "rm": tmp_path / "none"})
    assert "Training" not in parsed.words
    assert svgs(page) == []


def test_a_curve_of_one_point(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        writer.add_scalar("train/loss", 0.0, 3)
    page, _ = render(tmp_path, {}, {"sft": tmp_path / "logs"})
    assert len(list(svgs(page)[0].iter("circle"))) == 1


def test_numbers_as_written() -> None:
    assert [decimal(x) for x in (1234567.0, 123.4, 12.34, 1.234, 0.1234, 0.00123, -2.0, -0.0, None)] == [
        "1,234,567", "123", "12.3", "1.23", "0.12", "0.0012", "\u22122.00", "0.00", "\u2013"
    ]  # fmt: skip
    assert percent(0.625, 1) == "62.5\u00a0%"
    assert percent_range([0.1, None]) == percent_range("ab") == ""
    spans = [duration(s) for s in (3.21, 59.97, 300, 3599.9, 7500, math.nan)]
    assert spans == ["3.2\u00a0s", "1\u00a0min 0\u00a0s", "5\u00a0min 0\u00a0s", "1\u00a0h 0\u00a0min",
                     "2\u00a0h 5\u00a0min", "\u2013"]  # fmt: skip
    assert number(True) == 1.0
    assert number("1") is None


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.5, 1])
    assert ticks(-0.13, 0.42) == pytest.approx([0, 0.2, 0.4])
    assert ticks(0, 1999) == pytest.approx([0, 500, 1000, 1500])


def test_thinning_averages_and_drops_holes() -> None:
    assert thin([(0, 1.0), (1, 3.0), (2, math.nan), (3, 5.0), (4, 7.0)], 2) == [(0.5, 2.0), (3.5, 6.0)]
