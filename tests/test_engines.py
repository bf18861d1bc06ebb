"""The engines sample alike: greedily the same tokens, at a temperature the same distribution."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from scipy.stats import chi2
from stages import fit, plain_policy, ppo, prompts, sgd

from benchmarks.engines import main as compare
from lit_instructgpt.batch import pad
from lit_instructgpt.engines import ENGINES, EngineName
from lit_instructgpt.models import load_policy
from lit_instructgpt.modules import PPOModule

Dirs = Callable[[str], str]
PROMPTS = [[5, 30, 7, 99, 120], [64], [31, 8, 200]]
NEVER = 279
OTHERS: list[EngineName] = ["generate", "continuous_batching"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def greedy(model: Any, ids: list[int], num: int, eos: int) -> list[int]:
    response: list[int] = []
    while len(response) < num and response[-1:] != [eos]:
        with torch.no_grad():
            response.append(int(model(torch.tensor([ids + response])).logits[0, -1].argmax()))
    return response


@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_is_the_most_likely_token_of_the_bare_sequence(
    family: str, engine: EngineName, tiny_dir: Dirs, tokenizer: Any
):
    plain = plain_policy(tiny_dir(family))
    free = [greedy(plain, prompt, 7, NEVER) for prompt in PROMPTS]
    eos = free[1][2]  # so that one response ends early
    expected = [greedy(plain, prompt, 7, eos) for prompt in PROMPTS for _ in range(2)]
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = pad(PROMPTS, 1, left=True)
    found = ENGINES[engine](policy, ids, mask, 7, eos, 1, temperature=0, num_samples=2)
    assert [row[keep].tolist() for row, keep in zip(found.ids, found.mask, strict=True)] == expected
    assert policy.training, "the mode is restored"
    assert policy.config._attn_implementation == "sdpa", "pitfall 28: no paged attention is left behind"
    assert policy(ids, attention_mask=mask).logits.requires_grad


@pytest.fixture(scope="module")
def eight() -> Any:
    """A model with eight tokens."""
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("engine", OTHERS)
def test_samples_follow_the_untruncated_softmax(eight: Any, engine: EngineName):
    prompt, num = [3, 5], 1500
    with torch.no_grad():
        expected = (eight(torch.tensor([prompt])).logits[0, -1].double() / 0.7).softmax(-1) * num
    ids, mask = torch.tensor([prompt]), torch.ones(1, 2, dtype=torch.bool)
    before = torch.get_rng_state()
    found = ENGINES[engine](eight, ids, mask, 1, 9, 1, 0.7, torch.Generator().manual_seed(1), num_samples=num)
    assert torch.get_rng_state().equal(before), "the process's own random numbers are left alone"
    counts = torch.bincount(found.ids[:, 0], minlength=8).double()
    assert ((counts - expected).square() / expected).sum().item() < chi2.ppf(0.9999, 7)


@pytest.mark.parametrize("engine", OTHERS)
def test_same_seed_same_responses(engine: EngineName, tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir("gpt2"), tokenizer)
    ids, mask = pad(PROMPTS, 1, left=True)

    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return ENGINES[engine](policy, ids, mask, 5, NEVER, 1, 1.0, generator).ids.tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("engine", OTHERS)
def test_ppo_with_another_engine_computes_the_logprobs_itself(
    engine: EngineName, precision: Any, tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    module = PPOModule(
        tiny_dir("llama"), reward_model=tiny_reward_dir("llama"), optimizer=sgd(0.1), ppo=ppo(engine=engine)
    )
    _, record = fit(module, prompts(tmp_path, num_episodes=16), tmp_path, precision=precision)
    assert record.logged[0]["objective/kl"] == pytest.approx(0, abs=1e-5 if precision == "32-true" else 0.5)
    assert record.logged[1]["policy/ratio"] == pytest.approx(1, abs=1e-4 if precision == "32-true" else 0.05)
    assert "sampling/logprob_gap" not in record.logged[0]


def test_the_comparison_of_engines_runs(tiny_dir: Dirs, tmp_path: Path):
    options = ["--batch", "2", "--samples", "2", "--response", "3", "--rounds", "1", "--out", str(tmp_path / "e.json")]
    compare(["--model", tiny_dir("llama"), *options])
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert {(row["engine"], row["dtype"]) for row in rows} == {
        (e, d) for e in ENGINES for d in ("float32", "bf16-autocast")
    }
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert all(row["own_is_faster_by"] == 1 for row in rows if row["engine"] == "own")
