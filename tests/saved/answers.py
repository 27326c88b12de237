"""
What a saved folder answers to somebody who has torch and transformers and not this library, as JSON:

    python tests/saved/answers.py FOLDER            # every way to ask, items and scores
    python tests/saved/answers.py FOLDER --time 20  # and the CPU seconds of `recommend`, median of so many calls

A test compares the answers with those that were recorded when the folder was saved.
"""

import argparse
import json
import os
import statistics
import sys
import time

HISTORIES = [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(8)]]


class Blocked:
    """Makes this library impossible to import, should it be installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ModuleNotFoundError("hf_genrec is not to be used here")


sys.meta_path.insert(0, Blocked())

import torch  # noqa: E402
import transformers  # noqa: E402

TRUST = {"trust_remote_code": True}


def open_folder(folder: str):
    with open(f"{folder}/config.json", encoding="utf-8") as file:
        auto_map = json.load(file)["auto_map"]
    name = next(name for name in auto_map if name.startswith("AutoModelFor"))
    transformers.AutoConfig.from_pretrained(folder, **TRUST)
    backbone = transformers.AutoModel.from_pretrained(folder, **TRUST)
    model = getattr(transformers, name).from_pretrained(folder, **TRUST)
    return backbone, model, transformers.AutoProcessor.from_pretrained(folder, **TRUST)


def answers(folder: str) -> dict:
    """Items and, where there are any, scores by the way of asking."""
    _, model, processor = open_folder(folder)
    found = {
        "recommend": listed(*model.recommend(HISTORIES, k=10)),
        "recommend, seen excluded": listed(*model.recommend(HISTORIES, k=10, exclude_seen=True)),
        "score_items": [[], model.score_items(HISTORIES).tolist()],
    }
    if model.can_generate():
        found |= generated(model, processor)
    return found


def listed(item_ids, scores):
    return [item_ids, [[float(score) for score in line] for line in scores]]


def generated(model, processor) -> dict:
    """By transformers' `generate`, over a padded batch of histories of unequal length."""
    inputs = processor(histories=HISTORIES, return_tensors="pt")
    sets = hasattr(processor, "set_logits_processor")
    legal = processor.set_logits_processor() if sets else processor.trie_logits_processor()
    beams = {"num_beams": 20, "num_return_sequences": 10, "return_dict_in_generate": True, "output_scores": True}

    def write(**options):
        torch.manual_seed(0)
        if "custom_generate" not in options:
            options["logits_processor"] = [legal]
        output = model.generate(**inputs, **options)
        sequences = output if torch.is_tensor(output) else output.sequences
        scores = [] if torch.is_tensor(output) else output.sequences_scores.tolist()
        return [processor.batch_decode_items(sequences), scores]

    found = {
        "greedy": write(),
        "greedy, without cache": write(use_cache=False),
        "beams": write(**beams),
        "beams, without cache": write(**beams, use_cache=False),
        "sampling": write(do_sample=True, num_return_sequences=5),
    }
    if not sets:
        fast = {"custom_generate": processor.constrained_beam_search()}
        cache = model.user_cache()
        model.recommend([history[:-1] for history in HISTORIES], k=10, user_cache=cache)
        found |= {
            "greedy, static cache": write(cache_implementation="static", disable_compile=True),
            "beams, static cache": write(**beams, cache_implementation="static", disable_compile=True),
            "constrained beam search": write(**beams, **fast),
            "recommend, with a user cache": listed(*model.recommend(HISTORIES, k=10, user_cache=cache)),
        }
    return found


def codes_of_new_items(folder: str) -> list[list[int]]:
    """What the item tokenizer, where there is one, makes of five vectors."""
    if not os.path.isdir(os.path.join(folder, "item_tokenizer")):
        return []
    tokenizer = transformers.AutoModel.from_pretrained(folder, subfolder="item_tokenizer", **TRUST)
    vectors = torch.linspace(-1, 1, 5 * tokenizer.config.vector_dim).reshape(5, -1)
    return tokenizer.encode(vectors).tolist()


def cpu_seconds(folder: str, calls: int) -> float:
    _, model, _ = open_folder(folder)
    histories, times = HISTORIES * 8, []
    for _ in range(calls + 2):
        start = time.process_time()
        model.recommend(histories, k=10)
        times.append(time.process_time() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--time", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"transformers": transformers.__version__, "answers": answers(options.folder)}
    result["codes"] = codes_of_new_items(options.folder)
    if options.time:
        result["cpu_seconds"] = cpu_seconds(options.folder, options.time)
    print(json.dumps(result))
