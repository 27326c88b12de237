"""Values of the published CARE code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.trie_logits_processor import TrieLogitsProcessor
from hf_genrec.methods.care.care_layout import PADDING, attention_allowed
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "golden/care").glob("*/case.json"))


def open_case(folder, facts):
    config = CareConfig.from_published(
        facts["qwen2_config"],
        facts["query_list"],
        facts["progressive_list"],
        facts["query_div_scale"],
        facts["identifier_len"],
        facts["tokens"]["special_answer"],
    )
    model = CareForCausalLM.from_published(load_file(folder / "model.safetensors"), config)
    return model, load_file(folder / "train.safetensors"), load_file(folder / "infer.safetensors")


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    facts = json.loads((request.param / "case.json").read_text())
    return facts, *open_case(request.param, facts)


def training_inputs(tensors):
    codes = tensors["labels"][:, :4]
    prompt = tensors["input_ids"]
    return {
        "input_ids": torch.cat([prompt, codes], 1),
        "attention_mask": torch.cat([tensors["attention_mask"], torch.ones_like(codes)], 1),
        "labels": torch.cat([torch.full_like(prompt, -100), codes], 1),
    }


def test_there_are_cases():
    assert len(CASES) == 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_loss_logits_and_gradients(case, attention):
    facts, model, train, _ = case
    model.set_attn_implementation(attention)
    inputs = training_inputs(train)
    output = model(**inputs)
    output.loss.backward()

    start = train["input_ids"].shape[1] - 1
    assert (output.logits[:, start : start + 4] - train["selected_logits"]).abs().max() < 5e-5
    assert abs(output.loss.item() - facts["train"]["loss"]) < 1e-5
    weighted = model.config.query_diversity_weight * output.diversity_loss.item()
    assert abs(weighted - facts["train"]["div_term"]) < 1e-6
    assert (model.model.query_embeddings.weight.grad - train["grad_query_vector"]).abs().max() < 1e-5
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, norm in facts["train"]["grad_norms"].items():
        ours = "model.query_embeddings.weight" if name == "query_vector.weight" else name
        assert gradients[ours].norm().item() == pytest.approx(norm, rel=1e-4), name


def test_attention_pattern(case):
    _, model, train, _ = case
    inputs = training_inputs(train)
    layout = model.model.layout(inputs["input_ids"], inputs["attention_mask"])
    allowed = attention_allowed(layout, model.config.progressive)
    real = layout.kind != PADDING
    assert torch.equal(allowed[real], train["attn_allowed"].bool()[real])


def test_logits_to_keep_gives_the_same_loss(case):
    _, model, train, _ = case
    inputs = training_inputs(train)
    whole, part = model(**inputs), model(**inputs, logits_to_keep=5)
    torch.testing.assert_close(part.logits, whole.logits[:, -5:], atol=1e-5, rtol=1e-5)
    assert part.loss.item() == pytest.approx(whole.loss.item(), abs=1e-6)


def beam_search(model, infer, facts, num_beams):
    """The codes of stock beam search under the trie of the case's catalogue, and their scores."""
    trie = ItemTrie.from_token_ids(infer["catalogue"])
    output = model.generate(
        input_ids=infer["input_ids"],
        attention_mask=infer["attention_mask"],
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=4,
        early_stopping=True,
        do_sample=False,
        logits_processor=[TrieLogitsProcessor(trie, facts["tokens"]["special_answer"])],
        return_dict_in_generate=True,
        output_scores=True,
    )
    return output.sequences[:, infer["input_ids"].shape[1] :], output.sequences_scores


@pytest.mark.parametrize("num_beams", [5, 20])
def test_beam_search(case, num_beams):
    facts, model, _, infer = case
    codes, scores = beam_search(model, infer, facts, num_beams)
    assert torch.equal(codes, infer[f"b{num_beams}_mnt4.generated"])
    torch.testing.assert_close(scores, infer[f"b{num_beams}_mnt4.sequences_scores"], atol=1e-5, rtol=0)


def test_weights_that_do_not_fit_are_named(case):
    _, model, _, _ = case
    weights = model.state_dict()
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        CareForCausalLM.from_published(weights, model.config)


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output; of beams, how many differ."""
    if "qwen2_config" not in facts:
        return None
    model, train, infer = open_case(folder, facts)
    output = model(**training_inputs(train))
    output.loss.backward()
    start = train["input_ids"].shape[1] - 1
    logits = output.logits[:, start : start + train["selected_logits"].shape[1]]
    gaps = {
        "logits": (logits - train["selected_logits"]).abs().max().item(),
        "loss": abs(output.loss.item() - facts["train"]["loss"]),
    }
    if output.diversity_loss is not None:
        weighted = model.config.query_diversity_weight * output.diversity_loss.item()
        gaps["diversity term"] = abs(weighted - facts["train"]["div_term"])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    if "grad_query_vector" in train:
        queries = gradients["model.query_embeddings.weight"]
        gaps["gradient of the queries"] = (queries - train["grad_query_vector"]).abs().max().item()
    norms = {
        "model.query_embeddings.weight" if name == "query_vector.weight" else name: norm
        for name, norm in facts["train"]["grad_norms"].items()
    }
    gaps["gradient norms, relative"] = max(
        abs(gradients[name].norm().item() / norm - 1) for name, norm in norms.items() if norm
    )
    for name in infer:
        if name.endswith("_mnt4.generated"):  # others go on behind the last code, to a token that is never trained
            beams = int(name.split("_")[0].removeprefix("b"))
            found, scores = beam_search(model, infer, facts, beams)
            gaps["beams that differ"] = max(
                gaps.get("beams that differ", 0.0), float((found != infer[name]).any(-1).sum())
            )
            gap = (scores - infer[name.replace("generated", "sequences_scores")]).abs().max().item()
            gaps["scores of beams"] = max(gaps.get("scores of beams", 0.0), gap)
    return gaps
