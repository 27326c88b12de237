"""Post-training of STREAM: rewards by hand, and one policy in samples and log-probabilities."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import exit_code, make_processor
from tiny_stream import make_stream

from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_method, load_model
from hf_genrec.methods.stream.thinking_grpo_trainer import judged
from hf_genrec.methods.stream.thinking_policy import answer_log_probs, sample_answers
from hf_genrec.methods.stream.thinking_rewards import (
    ThinkingRewards,
    format_penalty,
    state_similarity,
    thinking_likelihood,
    thinking_rank,
)
from hf_genrec.post_training.build_grpo import load_policy
from hf_genrec.post_training.rewards import prefix_share

pytestmark = pytest.mark.libraries

HISTORIES = [np.array([3, 5, 1]), np.array([], dtype=np.int64), np.arange(8)]


def test_rewards_by_hand():
    trace = np.array([[1, 4, 0], [1, 1, 0], [5, 2, 0], [0, 2, 2]])
    assert format_penalty(trace, [2, 3]).tolist() == [0, -1, -1, -1]
    assert prefix_share(np.array([[3, 14, 25]]), np.array([[[3, 14, 29]]]))[0, 0] == pytest.approx(2 / 3, abs=1e-9)
    near = state_similarity(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]))
    assert near.tolist() == pytest.approx([0.6, -1.0], abs=1e-9)
    likelier = thinking_likelihood(np.array([-1.0, -2.0]), np.array([-1 - math.log(3), -2.0]))
    assert likelier.tolist() == pytest.approx([0.75, 0.5], abs=1e-9)
    ranks = thinking_rank(np.array([-2.0, -1.0, -9.0]), np.array([[-1.0, -3.0], [-1.0, -3.0], [-1.0, -3.0]]))
    assert ranks.tolist() == pytest.approx([1 / math.log2(3), 1.0, 0.5], abs=1e-9)


def test_rewards_read_their_part_of_an_answer():
    processor = make_processor()
    rewards = ThinkingRewards(processor, 1.0, 2)
    right, other = processor.token_ids[3].tolist(), processor.token_ids[4].tolist()
    answers = [[0, 5, *right], [0, 1, *other]]
    given = {"completion_ids": answers, "targets": [np.array([3]), np.array([3])]}
    shared = np.cumprod(processor.codes[3] == processor.codes[4]).mean()
    assert rewards.format(**given) == [0, -1]
    assert rewards.prefix(**given) == pytest.approx([1, shared])
    assert rewards.hit(**given) == [1, 0]


def by_hand(model, prompts, answers, trie, temperature) -> torch.Tensor:
    """(n, l + L) log-probabilities, by one pass of T5's decoder for each answer."""
    encoding = model.encoder(**prompts)
    thinks, found = model.config.num_thinking_tokens, []
    for answer in answers:
        trace, codes = answer[:thinks].tolist(), answer[thinks:].tolist()
        start = [model.config.answer_token_id]
        written = torch.tensor([start + trace + (start if thinks else []) + codes[:-1]])
        hidden = model.decoder(
            input_ids=written,
            encoder_hidden_states=encoding.last_hidden_state,
            encoder_attention_mask=encoding.attention_mask,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(model.scaled(hidden))[0] / temperature
        line = [logits[place].log_softmax(-1)[token] for place, token in enumerate(trace)]
        for level, code in enumerate(codes):
            node = trie.walk(torch.tensor([codes[:level]], dtype=torch.long))
            tokens, _, mask = trie.allowed(node, level)
            legal = tokens[0][mask[0] == 0].long()
            of_legal = logits[len(trace) + int(thinks > 0) + level][legal].log_softmax(-1)
            line.append(of_legal[legal == code].squeeze())
        found.append(torch.stack(line))
    return torch.stack(found)


@pytest.mark.parametrize("thinks", [0, 1, 4])
def test_samples_and_log_probabilities_are_of_one_policy(thinks):
    processor = make_processor()
    model, trie = make_stream(processor, num_thinking_tokens=thinks), processor.trie
    prompts = processor.prompts(HISTORIES)
    torch.manual_seed(0)
    answers, log_probs = sample_answers(model, prompts, trie, 5, temperature=1.3)
    assert answers.shape == log_probs.shape == (3, 5, thinks + 3)
    assert (trie.walk(answers[..., thinks:].flatten(0, 1)) >= 0).all()
    repeated = {name: part.repeat_interleave(5, 0) for name, part in prompts.items()}
    input_ids = torch.cat([repeated["input_ids"], answers.flatten(0, 1)], 1)
    mask = torch.cat([repeated["attention_mask"], torch.ones(15, thinks + 3, dtype=torch.long)], 1)
    order = torch.randperm(15)
    again, entropies = answer_log_probs(model, input_ids[order], mask[order], thinks, trie, 1.3)
    torch.testing.assert_close(again, log_probs.flatten(0, 1)[order], atol=1e-5, rtol=1e-4)
    assert (entropies >= -1e-6).all()
    for user in range(3):
        prompt = {name: part[user : user + 1] for name, part in prompts.items()}
        with torch.no_grad():
            expected = by_hand(model, prompt, answers[user], trie, 1.3)
        torch.testing.assert_close(log_probs[user], expected, atol=1e-5, rtol=1e-4)


def test_thinking_tokens_are_drawn_as_often_as_they_are_likely():
    processor = make_processor(num_items=6, sizes=(2, 3))
    model = make_stream(processor, num_thinking_tokens=1)
    torch.manual_seed(0)
    answers, _ = sample_answers(model, processor.prompts(HISTORIES[:1] * 200), processor.trie, 50)
    with torch.no_grad():
        share = model(**processor.prompts(HISTORIES[:1])).logits[0, 0].softmax(-1).numpy()
    found = np.bincount(answers[..., 0].flatten().numpy(), minlength=len(share)) / 10_000
    np.testing.assert_allclose(found, share, atol=0.015)


def test_what_the_rewards_are_told():
    processor = make_processor()
    model = make_stream(processor, num_thinking_tokens=2)
    histories, targets = [*HISTORIES[:1] * 2, *HISTORIES[2:] * 2], np.array([5, 5, 7, 7])
    traces = np.array([[0, 6], [4, 9], [2, 2], [1, 5]])
    torch.manual_seed(3)
    told = judged(model, histories, traces, targets, 2)
    start = model.config.answer_token_id
    for line, (history, target) in enumerate(zip(histories, targets, strict=True)):
        encoding = model.encoder(**processor.prompts([history]))

        def states_of(written, encoding=encoding):
            return model.decoder(
                input_ids=torch.tensor([written]), encoder_hidden_states=encoding.last_hidden_state, use_cache=False
            ).last_hidden_state

        codes, trace = processor.token_ids[target].tolist(), traces[line].tolist()
        with torch.no_grad():
            for name, before in (("with_trace", [start, *trace, start]), ("without_trace", [start, start])):
                logits = model.lm_head(model.scaled(states_of(before + codes[:-1])))[0, -3:].log_softmax(-1)
                expected = sum(logits[level, code].item() for level, code in enumerate(codes))
                assert told[name][line].item() == pytest.approx(expected, abs=1e-4)
            state = torch.nn.functional.normalize(model.state_map(states_of([start, *trace]).sum(1)), dim=-1)[0]
        torch.testing.assert_close(told["states"][line], state, atol=1e-5, rtol=1e-4)
        mean = model.shared.weight[torch.tensor(codes)].mean(0).detach()
        torch.testing.assert_close(told["target_directions"][line], mean / mean.norm())
    assert told["negatives"].shape == (4, 50)


def test_negatives_are_other_items():
    """Each other item is drawn, the target is not."""
    processor = make_processor(num_items=5, sizes=(3, 3))
    model = make_stream(processor, num_thinking_tokens=1)
    history, target = np.array([1, 2]), 3
    for _ in range(3):
        told = judged(model, [history], np.array([[0]]), np.array([target]), 1)
        prompts = processor.prompts([history])
        # The model's own scores behind this trace, by its labels.
        scores = []
        for row in range(5):
            labels = torch.tensor([[0, -100, *processor.token_ids[row]]])
            with torch.no_grad():
                logits = model(**prompts, labels=labels).logits[0, -2:].log_softmax(-1)
            scores.append(sum(logits[level, code].item() for level, code in enumerate(processor.token_ids[row])))
        nearest = np.abs(told["negatives"][0].numpy()[:, None] - np.array(scores)).argmin(1)
        assert set(nearest) == {0, 1, 2, 4}


@pytest.fixture(scope="module")
def source(own_data, tmp_path_factory):
    """A run of STREAM on random traces."""
    folder = tmp_path_factory.mktemp("thinking") / "source"
    options = {
        "method": "stream", "traces": "random", "num_thinking_tokens": 2, "hidden_size": 16, "intermediate_size": 32,
        "num_encoder_layers": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
        "num_train_epochs": 1, "output_dir": folder,
    }  # fmt: skip
    lines = [line for line in (own_data / "mine.yaml").read_text().splitlines() if line.split(":")[0] not in options]
    lines = [line for line in lines if not line.startswith("attention_dropout")]
    lines += [f"{name}: {value}" for name, value in options.items()]
    (folder.parent / "mine.yaml").write_text("\n".join(lines) + "\n")
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, "--config", folder.parent / "mine.yaml") == 0
    return folder


def grpo(source, target, *options):
    own = "--num_generations 4 --per_device_train_batch_size 16 --max_steps 3 --eval_steps 3 --save_steps 3"
    own += " --logging_steps 1 --learning_rate 0.003 --use_cpu true --report_to none --disable_tqdm true --method grpo"
    return exit_code("grpo", "--pretrained", source, "--output_dir", target, *own.split(), *options)


def test_grpo_with_the_five_rewards(source):
    target = source.parent / "grpo"
    names = ["format", "prefix", "similarity", "likelihood", "thinking_rank"]
    assert grpo(source, target, "--rewards", *names) == 0
    record = json.loads((target / "results/training.json").read_text())
    lines = [line for line in record["log"] if "reward" in line]
    assert len(lines) == 3
    bounds = {"format": (-1, 0), "similarity": (-1, 1)}
    for line in lines:
        found = {name: line[f"rewards/{name}/mean"] for name in names}
        assert line["reward"] == pytest.approx(sum(found.values()), abs=1e-5)
        for name, value in found.items():
            low, high = bounds.get(name, (0, 1))
            assert low <= value <= high
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)  # no dropout: the policy is the one that it starts from
    model, before = load_model(target / "model"), load_policy(source / "model")
    assert model.config.num_thinking_tokens == 2
    prepared = PreparedData.load(target / "data")
    assert len(model.recommend([prepared.item_ids[:3]], k=5)[0][0]) == 5
    after = load_model(target / "checkpoints/checkpoint-3")
    moved = [name for name, weight in before.state_dict().items() if not torch.equal(weight, after.state_dict()[name])]
    assert "shared.weight" in moved


def test_rewards_of_thinking_need_thinking(source):
    post_training = load_method("stream").post_training()
    arguments = type("Arguments", (), {"rewards": ["prefix", "format"], "horizon_decay": 1.0, "num_generations": 2})()
    model = make_stream(make_processor(), num_thinking_tokens=0)
    with pytest.raises(ValueError, match="format is one of thinking tokens, and this model writes none"):
        post_training.build_rewards(arguments, model, source)
    arguments.rewards = ["path"]
    with pytest.raises(ValueError, match="'path' is none of this model's"):
        post_training.build_rewards(arguments, make_stream(make_processor()), source)
