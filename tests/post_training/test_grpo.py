"""GRPO: samples, log-probabilities and rewards belong to one policy, and training raises the reward."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file

from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.post_training.build_grpo import build_prompts
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.grpo_trainer import GenRecGRPOTrainer
from hf_genrec.post_training.item_rewards import SequenceRewards
from hf_genrec.post_training.trie_policy import code_log_probs, group_logits, sample_items

pytestmark = pytest.mark.libraries

HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.array([5]), np.arange(8)]
GROUP = 5


def legal_log_probs(model, history, codes, temperature):
    """Teacher forcing of one answer, code by code, against the items that begin alike: (L, candidates) and (L,)."""
    processor = model.processor
    prompt = processor.prompts([history])["input_ids"]
    distributions, chosen = [], []
    for level, code in enumerate(codes):
        begin = torch.tensor([codes[:level]], dtype=torch.long)
        logits = model(input_ids=torch.cat([prompt, begin], dim=1)).logits[0, -1]
        alike = [ids for ids in processor.token_ids.tolist() if ids[:level] == list(codes[:level])]
        legal = sorted({ids[level] for ids in alike})
        log_probs = (logits[legal] / temperature).log_softmax(-1)
        distributions.append(log_probs)
        chosen.append(log_probs[legal.index(code)])
    return distributions, torch.stack(chosen)


@pytest.fixture(params=["sdpa", "eager"])
def any_attention(request):
    model = make_model(make_processor())
    model.set_attn_implementation(request.param)
    return model


def sampled(model, temperature=1.0, group=GROUP):
    """Rows of prompt and answer in another order than that of the groups, their mask, and the samples."""
    torch.manual_seed(0)
    inputs = model.processor.prompts(HISTORIES)
    codes, log_probs = sample_items(model, inputs, model.processor.trie, group, temperature)
    rows = torch.cat([inputs["input_ids"].repeat_interleave(group, 0), codes.flatten(0, 1)], dim=1)
    mask = torch.cat(
        [inputs["attention_mask"].repeat_interleave(group, 0), torch.ones_like(codes.flatten(0, 1))], dim=1
    )
    order = torch.randperm(len(rows))
    return rows[order], mask[order], codes.flatten(0, 1)[order], log_probs.flatten(0, 1)[order], order // group


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_teacher_forcing_among_legal_codes(any_attention, temperature):
    model = any_attention
    rows, mask, codes, of_samples, prompt = sampled(model, temperature)
    logits = group_logits(model, rows, mask, 3)
    log_probs, entropies = code_log_probs(logits, codes, model.processor.trie, temperature)
    torch.testing.assert_close(log_probs, of_samples, atol=1e-5, rtol=0)
    for line, answer in enumerate(codes.tolist()):
        distributions, chosen = legal_log_probs(model, HISTORIES[prompt[line]], answer, temperature)
        torch.testing.assert_close(log_probs[line], chosen, atol=1e-5, rtol=0)
        by_hand = torch.stack([-(values.exp() * values).sum() for values in distributions])
        torch.testing.assert_close(entropies[line], by_hand, atol=1e-5, rtol=0)


def test_gradients_are_those_of_a_row_per_answer(model):
    rows, mask, codes, _, _ = sampled(model)
    weights = torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))

    def gradients(logits):
        model.zero_grad()
        (code_log_probs(logits, codes, model.processor.trie)[0] * weights).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    together = gradients(group_logits(model, rows, mask, 3))
    apart = gradients(model(input_ids=rows, attention_mask=mask, logits_to_keep=4).logits[:, :-1])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_samples_follow_the_policy(model):
    """Frequencies of 20,000 samples against the exact probabilities of all 40 items."""
    torch.manual_seed(0)
    processor, history, count = model.processor, HISTORIES[0], 20_000  # in groups of 50: a group shares a row
    with torch.no_grad():
        exact = torch.tensor(
            [legal_log_probs(model, history, ids, 1.3)[1].sum().exp() for ids in processor.token_ids.tolist()]
        )
        codes, _ = sample_items(model, processor.prompts([history] * (count // 50)), processor.trie, 50, 1.3)
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    leaves = processor.trie.walk(codes.flatten(0, 1))
    assert (leaves >= 0).all()
    drawn = torch.bincount(processor.trie.items[leaves].long(), minlength=len(exact)) / count
    spread = (exact * (1 - exact) / count).sqrt()
    assert ((drawn - exact).abs() < 5 * spread + 1e-9).all()


# ---- the trainer ----


def successors(processor, users=48):
    """Every history has one right answer, the item after its newest one."""
    rng, items = np.random.default_rng(0), len(processor.item_ids)
    histories = [rng.integers(0, items, rng.integers(1, 6)) for _ in range(users)]
    return histories, [np.array([(history[-1] + 1) % items]) for history in histories]


def make_trainer(model, folder, peft_config=None, rewards=("hit", "prefix"), **settings) -> GenRecGRPOTrainer:
    histories, targets = successors(model.processor)
    rows = {"prompt": histories, "targets": targets}
    prompts = Dataset.from_dict({"row": range(len(histories))}).with_transform(
        lambda batch: {name: [values[row] for row in batch["row"]] for name, values in rows.items()}
    )
    arguments = GRPOArguments(
        **{
            "output_dir": str(folder),
            "rewards": list(rewards),
            "num_generations": 8,
            "per_device_train_batch_size": 128,
            "learning_rate": 5e-3,
            "max_steps": 3,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "eval_on_start": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
        }
        | settings
    )
    return GenRecGRPOTrainer(
        model,
        SequenceRewards(model.processor, 0.8, 8).chosen(arguments.rewards),
        arguments,
        peft_config=peft_config,
        train_dataset=prompts,
        eval_dataset=EvaluationSplit("validation", ["u"] * len(histories), histories, targets),
    )


def lines(trainer) -> list[dict]:
    return [line for line in trainer.state.log_history if "reward" in line]


def mean(trainer, name, start, end) -> float:
    return float(np.mean([line[name] for line in lines(trainer)[start:end]]))


def test_training_raises_the_reward(tmp_path):
    """Six items, and every history has one right answer."""
    model = make_model(make_processor(6, (2, 3), max_history=6))
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    trainer = make_trainer(model, tmp_path, max_steps=30, learning_rate=1e-2, logging_steps=5)
    first = trainer.evaluate()["eval_ndcg@10"]
    trainer.train()
    assert lines(trainer)[0]["rewards/hit/mean"] < 0.25
    assert lines(trainer)[-1]["rewards/hit/mean"] > 0.5
    assert lines(trainer)[-1]["rewards/prefix/mean"] > lines(trainer)[0]["rewards/prefix/mean"] + 0.2
    assert trainer.evaluate()["eval_ndcg@10"] > first + 0.15
    assert [name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])] == []
    # The reference is what the training started from, and the divergence from it is counted.
    reference = dict(trainer.ref_model.named_parameters())
    assert all(torch.equal(reference[name], tensor) for name, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in reference.values())
    assert lines(trainer)[-1]["kl"] > 0.1
    assert {"entropy", "clip_ratio/region_mean", "cpu_seconds"} <= lines(trainer)[-1].keys()
    assert not [name for name in lines(trainer)[-1] if name.startswith("completions/")]


def test_what_is_evaluated_is_not_logged_as_training(model, tmp_path):
    trainer = make_trainer(model, tmp_path, eval_strategy="steps", eval_steps=1, max_steps=2)
    trainer.train()
    evaluations = [line for line in trainer.state.log_history if "eval_ndcg@10" in line]
    assert len(evaluations) == 2
    assert not any("reward" in line for line in evaluations)
    assert len(lines(trainer)) == 2


def test_advantages_are_those_of_the_group(model, tmp_path):
    """Equation (8), with TRL's 1e-4 beside the standard deviation."""
    trainer = make_trainer(model, tmp_path, rewards=["hit", "prefix", "rank"], reward_weights=[1.0, 0.5, 0.25])
    trainer.model.train()
    rows = [trainer.train_dataset[row] for row in range(6) for _ in range(8)]
    scored = trainer._generate_and_score_completions(rows)
    rewards = SequenceRewards(model.processor, 0.8, 8)
    completions = scored["completion_ids"]
    columns = {"completion_ids": completions.tolist(), "targets": [row["targets"] for row in rows]}
    input_ids = torch.cat([scored["prompt_ids"], completions], dim=1)
    mask = torch.cat([scored["prompt_mask"], scored["completion_mask"]], dim=1)
    log_probs, _, _ = trainer._get_per_token_logps_and_entropies(model, input_ids, mask, 3, batch_size=7)
    scores = log_probs.sum(-1).tolist()
    weighted = (
        np.array(rewards.hit(**columns))
        + 0.5 * np.array(rewards.prefix(**columns))
        + 0.25 * np.array(rewards.rank(scores=scores, **columns))
    ).reshape(-1, 8)
    deviation = weighted.std(axis=1, ddof=1, keepdims=True)
    expected = (weighted - weighted.mean(axis=1, keepdims=True)) / (deviation + 1e-4)
    assert deviation.max() > 0
    assert scored["advantages"].numpy() == pytest.approx(expected.ravel(), abs=1e-4)
    torch.testing.assert_close(scored["ref_per_token_logps"], log_probs, atol=1e-5, rtol=0)
    # A completion is an item, nothing more and nothing less.
    assert completions.shape == (48, 3)
    assert (model.processor.trie.walk(completions) >= 0).all()
    prompts = model.processor.prompts([row["prompt"] for row in rows])
    assert torch.equal(scored["prompt_ids"], prompts["input_ids"])
    assert torch.equal(scored["prompt_mask"], prompts["attention_mask"])


def test_the_loss_is_the_clipped_objective_and_the_divergence(model, tmp_path):
    """Equation (9) for each code, mean over codes and answers; epsilon 0.15, beta 0.5."""
    trainer = make_trainer(model, tmp_path, beta=0.5)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [trainer.train_dataset[row] for row in range(6) for _ in range(8)]
    scored = trainer._generate_and_score_completions(rows)
    now = scored["ref_per_token_logps"].double()
    ratios = torch.tensor([0.5, 0.9, 1.2]).double().expand_as(now)  # below, within and above 1 - 0.15 to 1 + 0.15
    advantages = torch.linspace(-2, 2, len(now)).double()
    divergences = torch.tensor([0.1, -0.2, 0.3]).double().expand_as(now)  # log of the reference less that of the policy
    changed = {"old_per_token_logps": now - ratios.log(), "ref_per_token_logps": now + divergences}
    loss = trainer.compute_loss(model, scored | changed | {"advantages": advantages})
    # A good answer gains 0.5, 0.9 and at most 1.15 times its advantage, a bad one loses at least 0.85 times it.
    good, bad = (0.5 + 0.9 + 1.15) / 3, (0.85 + 0.9 + 1.2) / 3
    objective = (advantages.clamp(min=0) * good + advantages.clamp(max=0) * bad).mean()
    # The samples are the older policy's: TRL weighs what they say of the divergence by the ratio.
    estimate = (ratios * (divergences.exp() - divergences - 1)).mean()
    assert loss.item() == pytest.approx((-objective + 0.5 * estimate).item(), abs=1e-5)


def test_the_ratio_of_paths(model, tmp_path):
    """Equation (9) as it is printed: r_i is a path's probability over that of the policy it was sampled from."""
    trainer = make_trainer(model, tmp_path, beta=0.0, ratio="path")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [trainer.train_dataset[row] for row in range(6) for _ in range(8)]
    scored = trainer._generate_and_score_completions(rows)
    input_ids = torch.cat([scored["prompt_ids"], scored["completion_ids"]], dim=1)
    mask = torch.cat([scored["prompt_mask"], scored["completion_mask"]], dim=1)
    of_codes, _ = trainer._log_probs(model, input_ids, mask, 3)
    older = of_codes.detach() - torch.tensor([0.1, -0.4, 0.05])  # of the codes, as the older policy had them
    older[::2] = of_codes.detach()[::2] + torch.tensor([0.2, 0.1, 0.0])
    advantages = torch.linspace(-2, 2, len(older))
    paths = older.sum(1, keepdim=True).expand_as(older)
    loss = trainer.compute_loss(model, scored | {"old_per_token_logps": paths, "advantages": advantages})
    ratios = (of_codes.sum(1) - older.sum(1)).exp()
    assert ratios.min() < 0.85
    objective = torch.minimum(ratios * advantages, ratios.clamp(0.85, 1.15) * advantages).mean()
    assert loss.item() == pytest.approx(-objective.item(), abs=1e-6)
    weight = model.model.embed_tokens.weight
    (found,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (expected,) = torch.autograd.grad(-objective, weight)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("ratio", ["code", "path"])
def test_the_clip_acts_on_samples_that_are_used_again(tmp_path, ratio):
    """In the first step on them the policy is the one that sampled: every ratio is 1."""

    def clipped(**settings):
        model = make_model(make_processor(6, (2, 3), max_history=6))
        trainer = make_trainer(
            model, tmp_path, max_steps=6, learning_rate=2e-2, warmup_steps=0, ratio=ratio, **settings
        )
        trainer.train()
        return [line["clip_ratio/region_mean"] for line in trainer.state.log_history if "entropy" in line]

    again = clipped(num_iterations=3)
    assert again[0] == again[3] == 0
    assert min(again[1], again[2], again[4], again[5]) > 0
    assert clipped() == [0] * 6


def test_adapters_are_trained_and_merged(model, tmp_path):
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    lora = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", modules_to_save=["query_embeddings"])
    trainer = make_trainer(model, tmp_path, lora, max_steps=12, learning_rate=1e-2)
    assert trainer.ref_model is None
    trainer.train()
    assert lines(trainer)[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines(trainer)[-1]["kl"] > 0.05
    assert mean(trainer, "reward", -3, None) > mean(trainer, "reward", 0, 3) + 0.1
    merged = dict(trainer.model.named_parameters())
    changed = {name for name, tensor in before.items() if not torch.equal(merged[name], tensor)}
    assert merged.keys() == before.keys()
    assert "model.query_embeddings.weight" in changed
    assert {name for name in before if "proj.weight" in name} <= changed
    assert "model.embed_tokens.weight" not in changed
    trainer.model.save_pretrained(tmp_path / "merged")
    again = type(model).from_pretrained(tmp_path / "merged")
    histories, _ = successors(model.processor)
    assert (again.recommend_rows(histories)[0] == trainer.model.recommend_rows(histories)[0]).all()


@pytest.mark.parametrize("adapters", [False, True], ids=["all weights", "LoRA"])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, adapters):
    def train(folder, resume=None):
        lora = LoraConfig(r=4, target_modules="all-linear") if adapters else None
        settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5}  # three steps are an epoch
        trainer = make_trainer(make_model(make_processor()), folder, lora, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train(tmp_path / "whole")
    resumed = train(tmp_path / "resumed", str(tmp_path / "whole/checkpoint-5"))
    name = "adapter_model.safetensors" if adapters else "model.safetensors"
    expected, found = (load_file(tmp_path / folder / "checkpoint-8" / name) for folder in ("whole", "resumed"))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert lines(whole)[-1]["reward"] == lines(resumed)[-1]["reward"]


# ---- data and arguments ----


def test_prompts_are_prefixes_and_the_items_after_them():
    sequences = [np.array([4, 5, 6, 7]), np.array([], dtype=np.int64), np.array([8])]
    prompts = build_prompts(sequences, "all", max_history=2, horizon=3)
    rows = [(row["prompt"].tolist(), row["targets"].tolist()) for row in prompts]
    assert rows == [
        ([], [4, 5, 6]),
        ([4], [5, 6, 7]),
        ([4, 5], [6, 7, -1]),
        ([5, 6], [7, -1, -1]),
        ([], [8, -1, -1]),
    ]
    assert prompts.num_targets == 5
    (row,) = build_prompts(sequences[:1], "last", max_history=2, horizon=1)
    assert (row["prompt"].tolist(), row["targets"].tolist()) == ([5, 6], [7])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_dir": None}, "output_dir is missing"),
        ({"targets": "some"}, "not one of all, last"),
        ({"rewards": []}, "name at least one"),
        ({"rewards": ["hit", "hit"]}, "none twice"),
        ({"reward_weights": [1.0]}, "1 numbers for 2 rewards"),
        ({"horizon": 0}, "horizon 0"),
        ({"horizon_decay": 1.5}, "horizon_decay 1.5"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"beta": -1.0}, r"beta -1\.0: give a number, 0 or more"),
        ({"epsilon": float("nan")}, "epsilon nan"),
        ({"ratio": "sequence"}, "ratio: 'sequence' is not one of code, path"),
        ({"layer_precision_budget": float("nan")}, "layer_precision_budget nan"),
        ({"reward_weights": [1.0, float("nan")]}, r"reward_weights \[1\.0, nan\]: give numbers"),
        ({"lora_r": 0}, "lora_r 0: give a whole number, at least 1, or null"),
        ({"eval_users": 0}, "eval_users 0: give a whole number, at least 1, or null"),
        ({"top_k": 5}, "top_k: answers are sampled from the whole policy"),
        ({"use_vllm": True}, "use_vllm: answers are sampled from the whole policy"),
        ({"layer_precision": "int8"}, "'int8' is not one of adaptive"),
        ({"layer_precision": "fp8", "bf16": True}, "leave bf16 and fp16 out"),
        ({"per_device_train_batch_size": 24}, "must be divisible by num_generations"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        GRPOArguments(**{"output_dir": str(tmp_path), "use_cpu": True} | settings)


def test_a_process_samples_whole_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOArguments, "world_size", 2)
    with pytest.raises(ValueError, match="24 times steps_per_generation 1 is no multiple of num_generations 16"):
        GRPOArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=24)
