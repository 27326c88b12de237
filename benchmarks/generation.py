"""Recommendations per second: `recommend` against stock `generate` with `prefix_allowed_tokens_fn` and a dict trie.

    python -m benchmarks.generation
    python -m benchmarks.generation --beside 1   # methods of ordered codes beside each other, a training step as well

The stock way is what the published CARE, MiniOneRec and LC-Rec do: every prompt is repeated for each beam and encoded
as often, and a Python function walks a dict of dicts for the legal tokens of each beam at each step. Both ways, and the
steps between them, must find the same items with scores within 1e-4. The weights are random: time does not depend on
what they say.

Beside each other, CARE, TIGER and S2GR have one width, as many decoder layers, feed-forward layers and attention heads,
and the last two as many encoder layers. A step is forward, backward and AdamW on `--targets` targets, whose histories
have from 0 to `--history` items; CARE reads them in a row each, as the others, and packed, as it is trained.
"""

import copy
import logging

import numpy as np
import torch
from transformers import GenerationMixin

from benchmarks.measure import alternate, arguments, threads, write_result
from benchmarks.peers import DictTrie
from hf_genrec.data.collator import NextItemCollator, PackedCollator, Seq2SeqCollator
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.decoding.user_cache import UserCache
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM
from hf_genrec.methods.s2gr.modeling_s2gr import S2grForConditionalGeneration
from hf_genrec.methods.tiger.modeling_tiger import TigerForConditionalGeneration
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.code_t5_training import build_code_t5

logger = logging.getLogger(__name__)


class StockCare(CareForCausalLM):
    """CARE as stock beam search treats it: without the override that encodes equal prompts once."""

    _prefill = GenerationMixin._prefill


def build(items: int, layers: int, hidden: int, history: int, levels: int = 4, seed: int = 0) -> CareForCausalLM:
    """A model with random weights and a catalogue of random codes, `levels` times 256."""
    rng = np.random.default_rng(seed)
    sizes = [256] * levels
    codes = np.stack(np.unravel_index(rng.choice(256**levels, items, replace=False), sizes), axis=1)
    processor = GenRecProcessor(code_tokenizer(sizes), sizes, max_history=history)
    processor.set_catalogue([str(row) for row in range(items)], codes)
    torch.manual_seed(seed)
    config = CareConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=(history + 1) * levels + 1 + levels,
        num_queries=[1] * levels,
        codebook_sizes=sizes,
        answer_token_id=processor.answer_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        max_history=history,
        initializer_range=0.05,
    )
    model = CareForCausalLM(config).eval()
    model.processor = processor
    return model


def main() -> None:
    options = arguments(
        __doc__, users=16, history=20, beams=20, items=12101, layers=4, hidden=128, targets=128, beside=0
    )
    if options.beside:
        return beside_each_other(options)
    model = build(options.items, options.layers, options.hidden, options.history)
    processor = model.processor
    stock = StockCare(model.config).eval()
    stock.load_state_dict(model.state_dict())
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, options.items, options.history) for _ in range(options.users)]
    inputs = processor.prompts(histories)
    dict_trie = DictTrie(processor.token_ids)
    prompt_length = inputs["input_ids"].shape[1]
    settings = {"num_beams": options.beams, "num_return_sequences": options.beams, "return_dict_in_generate": True}
    settings |= {"output_scores": True, "max_new_tokens": processor.num_levels}

    def prefix_allowed_tokens(batch: int, ids: torch.Tensor) -> list[int]:
        return dict_trie.allowed(ids[prompt_length:].tolist())

    ways = {
        "stock generate, dict trie": lambda: stock.generate(
            **inputs, **settings, prefix_allowed_tokens_fn=prefix_allowed_tokens
        ),
        "generate, TrieLogitsProcessor": lambda: model.generate(
            **inputs, **settings, logits_processor=[processor.trie_logits_processor()]
        ),
        "generate, custom_generate": lambda: model.generate(
            **inputs, **settings, custom_generate=processor.constrained_beam_search()
        ),
        "recommend": lambda: model.recommend_rows(histories, options.beams, num_beams=options.beams),
    }
    check_equal(processor, {name: way() for name, way in ways.items()}, options.beams)

    shorter = [history[:-1] for history in histories]
    before = UserCache()
    model.recommend_rows(shorter, options.beams, num_beams=options.beams, user_cache=before)

    def second_request():
        cache = copy.copy(before)
        cache._entries = before._entries.copy()
        return model.recommend_rows(histories, options.beams, num_beams=options.beams, user_cache=cache)

    rows, scores = second_request()
    expected_rows, expected_scores = ways["recommend"]()
    assert (rows == expected_rows).all()
    assert np.abs(scores - expected_scores).max() < 1e-4
    ways["recommend, second request with one new item"] = second_request

    results = {}
    for count in options.threads:
        with threads(count):
            results[f"{count} threads"] = measured = alternate(ways, options.repeats)
        base = measured["stock generate, dict trie"]
        print(f"\n{count} thread(s)                                      ms    CPU ms   users/s   times stock")
        for name, figures in measured.items():
            figures["users_per_second"] = options.users / figures["seconds"]
            figures["times_stock"] = base["seconds"] / figures["seconds"]
            print(
                f"{name:<44} {figures['seconds'] * 1e3:9.1f} {figures['cpu_seconds'] * 1e3:9.1f} "
                f"{figures['users_per_second']:9.1f} {figures['times_stock']:9.1f}"
            )
    write_result("generation", "python -m benchmarks.generation", vars(options), results)


def beside_each_other(options) -> None:
    """CPU seconds of a training step, and users per CPU second of `recommend`, of several methods in one run."""
    rng = np.random.default_rng(1)
    care = build(options.items, options.layers, options.hidden, options.history, levels=3)
    processor = care.processor
    sizes = {
        "d_model": options.hidden,
        "d_ff": 2 * options.hidden,
        "d_kv": 32,
        "num_heads": options.hidden // 32,
        "num_layers": options.layers,
        "num_decoder_layers": options.layers,
        "dropout_rate": 0.0,  # as CARE's
    }
    thinking = {"thinking": [True] * 3, "num_clusters": [32] * 3, "code_dim": 64}
    models = {
        "CARE": care,
        "TIGER": build_code_t5(TigerForConditionalGeneration, processor, **sizes),
        "S2GR": build_code_t5(S2grForConditionalGeneration, processor, **sizes, **thinking),
    }
    # Users of as many items as are read: a target behind each of their prefixes.
    sequences = [rng.integers(0, options.items, options.history + 1) for _ in range(options.targets // options.history)]
    examples = [
        {"history": user[:place], "target": user[place]} for user in sequences for place in range(options.history)
    ]
    packed = [{"segments": [(user[: options.history], 0)]} for user in sequences]
    batches = {
        "CARE": ("a row per target", NextItemCollator(processor)(examples)),
        "CARE, packed": ("a row per user", PackedCollator(processor)(packed)),
        "TIGER": ("a row per target", Seq2SeqCollator(processor)(examples)),
        "S2GR": ("a row per target", Seq2SeqCollator(processor)(examples)),
    }

    def step(model, batch):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def call() -> None:
            model.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return call

    steps = {name: step(models[name.split(",")[0]], batch) for name, (_, batch) in batches.items()}
    histories = [rng.integers(0, options.items, options.history) for _ in range(options.users)]

    def ask(model):
        return lambda: model.eval().recommend_rows(histories, options.beams, num_beams=options.beams)

    results: dict[str, dict] = {}
    for count in options.threads:
        with threads(count):
            trained = alternate(steps, options.repeats)
            asked = alternate({name: ask(model) for name, model in models.items()}, options.repeats)
        for figures in asked.values():
            figures["users_per_cpu_second"] = options.users / figures["cpu_seconds"]
        results[f"{count} threads"] = {"step": trained, "recommend": asked}
        print(f"\n{count} thread(s), {len(examples)} targets a step     CPU ms a step   users per CPU second")
        for name, figures in trained.items():
            users = f"{asked[name]['users_per_cpu_second']:9.1f}" if name in asked else ""
            print(f"{name:<16} {batches[name][0]:<24} {figures['cpu_seconds'] * 1e3:9.1f} {users}")
    write_result("generation_beside", "python -m benchmarks.generation --beside 1", vars(options), results)


def check_equal(processor: GenRecProcessor, outputs: dict, beams: int) -> None:
    """All ways list the same items; scores agree to 1e-4. Stock scores are divided by the number of codes."""
    rows, scores = outputs.pop("recommend")
    levels = processor.num_levels
    for name, output in outputs.items():
        found = np.array(processor.batch_decode_items(output.sequences)).reshape(-1, beams)
        found_scores = output.sequences_scores.numpy().reshape(-1, beams) * levels
        assert np.abs(found_scores - scores).max() < 1e-4, name
        # Items whose scores differ by rounding only may change places.
        same = found == rows.astype(str)
        close = np.abs(np.diff(scores, axis=1)) < 1e-5
        tied = np.pad(close, ((0, 0), (1, 0))) | np.pad(close, ((0, 0), (0, 1)))
        assert (same | tied).all(), name


if __name__ == "__main__":
    main()
