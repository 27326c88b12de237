"""GRPO of REG4Rec: the policy over unordered codes, and what the rewards are told of its paths."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_reg4rec import log_probs_after, make_reg4rec, make_set_processor

from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.methods.reg4rec.set_grpo_trainer import SetGRPOTrainer
from hf_genrec.methods.reg4rec.set_policy import group_path_logits, path_log_probs, sample_paths
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.item_rewards import SetRewards

pytestmark = pytest.mark.libraries

HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.array([5]), np.arange(6)]
GROUP = 5


@pytest.fixture
def model():
    return make_reg4rec(make_set_processor())


def legal_log_probs(model, history, path, temperature):
    """The policy step by step, from the items that hold the codes so far: distributions, and (M,) of the path."""
    items = [set(ids) for ids in model.processor.token_ids.tolist()]
    bounds = np.cumsum([0, *model.config.codebook_sizes])
    distributions, chosen = [], []
    for step, token in enumerate(path):
        before = path[:step]
        used = {int(np.searchsorted(bounds, other, side="right")) for other in before}
        left = set().union(*[ids for ids in items if ids >= set(before)])
        books = [step + 1] if model.config.code_order == "fixed" else {1, 2, 3} - used
        legal = sorted(other for other in left if int(np.searchsorted(bounds, other, side="right")) in books)
        log_probs = (log_probs_after(model, history, before)[legal] / temperature).log_softmax(-1)
        distributions.append(log_probs)
        chosen.append(log_probs[legal.index(token)])
    return distributions, torch.stack(chosen)


def rows_of(model, histories, codes):
    group = codes.shape[1]
    inputs = model.processor.prompts(histories)
    answers = codes.flatten(0, 1)
    rows = torch.cat([inputs["input_ids"].repeat_interleave(group, 0), answers], dim=1)
    return rows, torch.cat([inputs["attention_mask"].repeat_interleave(group, 0), torch.ones_like(answers)], dim=1)


@pytest.mark.parametrize("histories", [HISTORIES, HISTORIES[1:2]], ids=["mixed", "empty"])
@pytest.mark.parametrize(("temperature", "code_order"), [(1.0, "confidence"), (0.7, "confidence"), (0.7, "fixed")])
def test_log_probabilities_are_those_of_the_legal_pairs(histories, temperature, code_order):
    model = make_reg4rec(make_set_processor(), code_order=code_order)
    torch.manual_seed(0)
    sets = model.processor.item_sets
    codes, of_samples, _ = sample_paths(model, model.processor.prompts(histories), sets, GROUP, temperature)
    rows, mask = rows_of(model, histories, codes)
    order = torch.randperm(len(rows))
    logits = group_path_logits(model, rows[order], mask[order], 3)
    log_probs, entropies = path_log_probs(logits, rows[order, -3:], sets, temperature, code_order)
    torch.testing.assert_close(log_probs, of_samples.flatten(0, 1)[order], atol=1e-5, rtol=0)
    for line, row in enumerate(order.tolist()):
        path = rows[row, -3:].tolist()
        distributions, chosen = legal_log_probs(model, histories[row // GROUP], path, temperature)
        torch.testing.assert_close(log_probs[line], chosen, atol=1e-5, rtol=0)
        by_hand = torch.stack([-(values.exp() * values).sum() for values in distributions])
        torch.testing.assert_close(entropies[line], by_hand, atol=1e-5, rtol=0)


def test_all_histories_empty_without_a_column(model):
    """TRL strips the padding, and pads to the longest history: here there is nothing left."""
    torch.manual_seed(0)
    empty = torch.zeros(2, 0, dtype=torch.long)
    sets = model.processor.item_sets
    codes, of_samples, _ = sample_paths(model, {"input_ids": empty, "attention_mask": empty}, sets, GROUP)
    answers = codes.flatten(0, 1)
    logits = group_path_logits(model, answers, torch.ones_like(answers), 3)
    torch.testing.assert_close(path_log_probs(logits, answers, sets)[0], of_samples.flatten(0, 1), atol=1e-5, rtol=0)
    chosen = legal_log_probs(model, HISTORIES[1], answers[0].tolist(), 1.0)[1]
    torch.testing.assert_close(of_samples[0, 0], chosen, atol=1e-5, rtol=0)


def test_samples_follow_the_policy(model):
    """Frequencies of 20,000 samples against the exact probabilities of all items, over all orders of their codes."""
    torch.manual_seed(0)
    processor, history, count = model.processor, HISTORIES[0], 20_000
    exact = torch.zeros(len(processor.item_ids))
    for row, ids in enumerate(processor.token_ids.tolist()):
        for path in itertools.permutations(ids):
            exact[row] += legal_log_probs(model, history, list(path), 1.0)[1].sum().exp()
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    inputs = processor.prompts([history] * (count // 50))
    codes, _, _ = sample_paths(model, inputs, processor.item_sets, 50)
    leaves = processor.item_sets.walk(codes.flatten(0, 1)).first_leaves()
    assert (leaves >= 0).all()
    drawn = torch.bincount(processor.item_sets.items[leaves].long(), minlength=len(exact)) / count
    spread = (exact * (1 - exact) / count).sqrt()
    assert ((drawn - exact).abs() < 5 * spread + 1e-9).all()


def test_the_categories_of_every_step(model):
    torch.manual_seed(0)
    codes, _, categories = sample_paths(model, model.processor.prompts(HISTORIES), model.processor.item_sets, GROUP)
    assert categories.shape == (4, GROUP, 3, 3)
    for line, history in enumerate(HISTORIES):
        for place, path in enumerate(codes[line].tolist()):
            fed = torch.tensor([[model.config.decoder_start_token_id, *path[:-1]]])
            with torch.no_grad():
                expected = model(**model.processor.prompts([history]), decoder_input_ids=fed).category_logits.softmax(
                    -1
                )
            torch.testing.assert_close(categories[line, place], expected[0], atol=1e-5, rtol=0)


def test_gradients_are_those_of_a_row_per_path(model):
    torch.manual_seed(0)
    sets = model.processor.item_sets
    codes, _, _ = sample_paths(model, model.processor.prompts(HISTORIES), sets, GROUP)
    rows, mask = rows_of(model, HISTORIES, codes)
    weights = torch.randn(len(rows), 3)

    def gradients(logits):
        model.zero_grad()
        (path_log_probs(logits, rows[:, -3:], sets)[0] * weights).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    together = gradients(group_path_logits(model, rows, mask, 3))
    fed = torch.nn.functional.pad(rows[:, -3:-1], (1, 0), value=model.config.decoder_start_token_id)
    apart = gradients(model(rows[:, :-3], mask[:, :-3], decoder_input_ids=fed).logits)
    assert len(apart) > 20
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_training_raises_the_rewards(tmp_path):
    """Every history has one right answer, the item after its newest one, of eight."""
    processor = make_set_processor(8, (2, 2, 2))
    model = make_reg4rec(processor)
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 8, rng.integers(1, 5)) for _ in range(48)]
    rows = {"prompt": histories, "targets": [np.array([(history[-1] + 1) % 8]) for history in histories]}
    prompts = Dataset.from_dict({"row": range(48)}).with_transform(
        lambda batch: {name: [values[row] for row in batch["row"]] for name, values in rows.items()}
    )
    names = ["hit", "step_hit", "category_hit", "consistency"]
    arguments = GRPOArguments(
        output_dir=str(tmp_path), rewards=names, num_generations=8, per_device_train_batch_size=128, learning_rate=1e-2,
        max_steps=30, logging_steps=5, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
        eval_on_start=False, use_cpu=True, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    split = EvaluationSplit("validation", ["u"] * 48, histories, rows["targets"])
    rewards = SetRewards(processor, 0.8, 8, processor.categories).chosen(names)
    trainer = SetGRPOTrainer(model, rewards, arguments, train_dataset=prompts, eval_dataset=split)
    first = trainer.evaluate()["eval_ndcg@10"]
    trainer.train()
    lines = [line for line in trainer.state.log_history if "reward" in line]
    assert lines[-1]["rewards/step_hit/mean"] > lines[0]["rewards/step_hit/mean"] + 0.1
    assert lines[-1]["rewards/hit/mean"] > lines[0]["rewards/hit/mean"] + 0.2
    assert trainer.evaluate()["eval_ndcg@10"] > first + 0.1
    assert lines[-1]["kl"] > 0.05
    reference = dict(trainer.ref_model.named_parameters())
    assert all(torch.equal(reference[name], tensor) for name, tensor in before.items())
    # The category head is no part of the policy: it judges the paths, and stays what pretraining made it.
    unchanged = {name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])}
    assert unchanged == {"category_head.weight", "category_head.bias"}
