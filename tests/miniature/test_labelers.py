import dataclasses
import itertools
import json
import random
from pathlib import Path

import pytest
from miniature import rank as rank_module
from miniature.answers import SLIPS, STYLES, slip, styled
from miniature.gold import judge
from miniature.labelers import HELD_OUT, TRAINING, Labeler, demonstrate, rank
from miniature.rank import Agreement, compare
from miniature.world import sample_task

NEUTRAL = Labeler("neutral", 0, 0, 0, 0, 0, 0, noise=0.0, tie=0.0)


def outputs(rng: random.Random, gold: dict, n: int) -> list[str]:
    texts = [styled(gold, rng, rng.choice(STYLES)) for _ in range(n)]
    texts += [slip(gold, rng, rng.choice(SLIPS)) for _ in range(n)]
    return list(dict.fromkeys(texts))


def test_without_noise_or_taste_the_ranking_is_the_truth() -> None:
    rng = random.Random(1)
    for _ in range(300):
        gold = sample_task(rng).gold
        texts = outputs(rng, gold, 4)
        worth = [judge(gold, text).utility for text in texts]
        ranks = rank(NEUTRAL, gold, texts, rng)
        assert sorted(set(ranks)) == list(range(1, len(set(worth)) + 1))
        for i, j in itertools.combinations(range(len(texts)), 2):
            assert (worth[i] > worth[j]) == (ranks[i] < ranks[j])
            assert (worth[i] == worth[j]) == (ranks[i] == ranks[j])


def test_outputs_that_seem_equal_share_a_rank() -> None:
    gold = sample_task(random.Random(2), "open_qa").gold
    patient = dataclasses.replace(NEUTRAL, tie=100.0)
    assert rank(patient, gold, ["It is.", "", "I do not know."], random.Random(0)) == [1, 1, 1]


def test_labelers_are_about_forty_percent_of_the_papers_and_differ() -> None:
    assert len({one.id for one in TRAINING}) == 14
    assert len({one.id for one in HELD_OUT}) == 5
    assert not {one.id for one in TRAINING} & {one.id for one in HELD_OUT}
    tastes = [(one.brevity, one.detail, one.politeness, one.strictness, one.truth, one.form) for one in TRAINING]
    assert len(set(tastes)) == len(tastes)


def test_demonstrations_are_mostly_good_but_not_all() -> None:
    rng = random.Random(5)
    follows = []
    for _ in range(3000):
        gold = sample_task(rng).gold
        follows.append(judge(gold, demonstrate(rng.choice(TRAINING), gold, rng)).follows_instruction)
    assert 0.65 <= sum(follows) / len(follows) <= 0.85
    gold = sample_task(rng).gold
    assert judge(gold, demonstrate(TRAINING[0], gold, rng, clean=True)).likert == 7


def test_agreement_by_hand() -> None:
    agreement = Agreement()
    agreement.add([1, 2, 3], [1, 2, 3])  # three pairs, all agreed
    agreement.add([1, 2, 2], [2, 1, 3])  # (0,1) not agreed, (0,2) agreed, (1,2) tied
    assert (agreement.agreed, agreement.pairs, agreement.tied, agreement.prompts) == (4, 5, 1, 2)
    assert agreement.rate == pytest.approx(0.8)
    assert Agreement().rate is None


def sampled(n: int) -> list[dict]:
    rng = random.Random(6)
    rows = []
    for i in range(n):
        task = sample_task(rng)
        texts = (outputs(rng, task.gold, 6) * 3)[:9]
        rows.append(
            {
                "id": f"p{i}",
                "prompt": task.prompt,
                "user": "customer-1",
                "gold": task.gold,
                "responses": texts,
            }
        )
    rows.append(rows[0] | {"id": "same", "responses": ["It is."] * 9})
    return rows


def test_compare_ranks_distinct_outputs_densely() -> None:
    rows = sampled(120)
    ranked, stranger, summary = compare(rows, 3)
    assert summary["num_skipped"] == 1
    assert summary["num_ranked"] == len(ranked) == len(stranger) == 120
    assert {row["labeler"] for row in ranked} <= {one.id for one in TRAINING}
    assert {row["labeler"] for row in stranger} <= {one.id for one in HELD_OUT}
    for row in ranked + stranger:
        assert set(row) == {"id", "prompt", "responses", "ranking", "labeler", "user", "source"}
        assert 2 <= len(row["responses"]) <= 9
        assert len(set(row["responses"])) == len(row["responses"]) == len(row["ranking"])
        assert sorted(set(row["ranking"])) == list(range(1, max(row["ranking"]) + 1))
    assert 0.6 < summary["training"] < 0.95
    assert summary["num_pairs_training"] > 200


def test_held_out_labelers_leave_training_prompts_alone() -> None:
    rows = [row | {"split": "train" if i % 2 else "valid"} for i, row in enumerate(sampled(10)[:10])]
    ranked, stranger, _ = compare(rows, 3)
    assert len(ranked) == 10
    assert [row["id"] for row in stranger] == ["p0", "p2", "p4", "p6", "p8"]


def test_the_command_writes_the_same_files_twice(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in sampled(20)))
    written = []
    for name in ("a", "b"):
        out = tmp_path / name
        args = ["--samples", str(samples), "--out", str(out / "c.jsonl"), "--seed", "5"]
        args += ["--held-out-out", str(out / "h.jsonl"), "--agreement", str(out / "a.json")]
        rank_module.main(args)
        written.append([(out / file).read_bytes() for file in ("c.jsonl", "h.jsonl", "a.json")])
    assert written[0] == written[1]
