"""What a step of GRPO costs: samples and log-probabilities, ours against the stock ways, in one run.

    python -m benchmarks.grpo_speed
    python -m benchmarks.grpo_speed --users 8 --repeats 3

A CARE model with random weights (hidden 64, 2 layers, 3 codes of 64, one query before each) over a random catalogue, 32
histories of 20 items, G samples of each. Samples: `sample_items`, which encodes a history once and draws among the
trie's children, against `generate(do_sample=True)` with the trie as logits processor on G copies of each prompt.
Log-probabilities, forward and backward: a packed row per history against a row per sample. Checked: both samplers draw
catalogue items whose average log-probability under the policy agrees, and both log-probabilities are equal.
"""

import numpy as np
import torch

from benchmarks.measure import alternate, arguments, threads, write_result
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.care.arguments import CareArguments
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.methods.care.training_care import build_care
from hf_genrec.post_training.trie_policy import code_log_probs, group_logits, sample_items
from hf_genrec.semantic_ids.tokens import code_tokenizer

SIZES, ITEMS = [64, 64, 64], 1682


def build() -> CareForCausalLM:
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.choice(64**3, ITEMS, replace=False), SIZES), axis=1)
    processor = GenRecProcessor(code_tokenizer(SIZES), SIZES, max_history=20).set_catalogue(
        [str(row) for row in range(ITEMS)], codes
    )
    torch.manual_seed(0)
    return build_care(CareArguments(hidden_size=64, intermediate_size=128), processor).eval()


def stock_samples(model: CareForCausalLM, inputs: dict[str, torch.Tensor], group: int) -> torch.Tensor:
    """(users, G, L) codes."""
    copies = {name: tensor.repeat_interleave(group, 0) for name, tensor in inputs.items()}
    rows = model.generate(**copies, do_sample=True, logits_processor=[model.processor.trie_logits_processor()])
    return rows[:, inputs["input_ids"].shape[1] :].view(-1, group, len(SIZES))


def rows_of(inputs: dict[str, torch.Tensor], codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with their answers, (users * G, S + L), and their mask."""
    group = codes.shape[1]
    answers = codes.flatten(0, 1)
    ids = torch.cat([inputs["input_ids"].repeat_interleave(group, 0), answers], dim=1)
    mask = torch.cat([inputs["attention_mask"].repeat_interleave(group, 0), torch.ones_like(answers)], dim=1)
    return ids, mask


def log_probs(model: CareForCausalLM, ids: torch.Tensor, mask: torch.Tensor, packed: bool) -> torch.Tensor:
    """(users * G, L)"""
    if packed:
        logits = group_logits(model, ids, mask, len(SIZES))
    else:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=len(SIZES) + 1).logits[:, :-1]
    return code_log_probs(logits, ids[:, -len(SIZES) :], model.processor.trie)[0]


def step(model: CareForCausalLM, ids: torch.Tensor, mask: torch.Tensor, packed: bool) -> None:
    model.zero_grad()
    log_probs(model, ids, mask, packed).sum().backward()


def check(model: CareForCausalLM, inputs: dict[str, torch.Tensor], group: int) -> None:
    """Both ways give the same answer."""
    trie = model.processor.trie
    ours, _ = sample_items(model, inputs, trie, group)
    theirs = stock_samples(model, inputs, group)
    means = []
    for codes in (ours, theirs):
        assert (trie.walk(codes.flatten(0, 1)) >= 0).all()
        ids, mask = rows_of(inputs, codes)
        with torch.no_grad():
            packed, single = (log_probs(model, ids, mask, way) for way in (True, False))
        torch.testing.assert_close(packed, single, atol=1e-4, rtol=0)
        means.append(packed.sum(-1))
    spread = (means[0].var() / len(means[0]) + means[1].var() / len(means[1])).sqrt()
    assert (means[0].mean() - means[1].mean()).abs() < 5 * spread, "the samplers draw from different distributions"


def main() -> None:
    options = arguments(__doc__, users=32, groups=[8, 16, 32])
    model = build()
    rng = np.random.default_rng(1)
    inputs = model.processor.prompts([rng.integers(0, ITEMS, 20) for _ in range(options.users)])
    results = []
    for count in options.threads:
        with threads(count):
            for group in options.groups:
                check(model, inputs, group)
                codes, _ = sample_items(model, inputs, model.processor.trie, group)
                ids, mask = rows_of(inputs, codes)
                times = alternate(
                    {
                        "samples, ours": lambda g=group: sample_items(model, inputs, model.processor.trie, g),
                        "samples, generate": lambda g=group: stock_samples(model, inputs, g),
                        "log-probabilities, packed": lambda i=ids, m=mask: step(model, i, m, True),
                        "log-probabilities, a row each": lambda i=ids, m=mask: step(model, i, m, False),
                    },
                    options.repeats,
                )
                tokens = codes.numel()
                print(f"{count} threads, {options.users} histories, {group} samples each: {tokens} tokens")
                for name, measured in times.items():
                    measured["tokens_per_second"] = tokens / measured["seconds"]
                    print(f"  {name:32s} {measured['seconds']:8.4f} s {measured['tokens_per_second']:10,.0f} tokens/s")
                ratios = {
                    "samples": times["samples, generate"]["seconds"] / times["samples, ours"]["seconds"],
                    "log-probabilities": times["log-probabilities, a row each"]["seconds"]
                    / times["log-probabilities, packed"]["seconds"],
                }
                print("  ours is faster by", ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items()))
                results.append({"threads": count, "group": group, "times": times, "ratios": ratios})
    settings = {"users": options.users, "items": ITEMS, "codes": SIZES, "history": 20, "repeats": options.repeats}
    write_result("grpo_speed", "python -m benchmarks.grpo_speed", settings, results)


if __name__ == "__main__":
    main()
