"""Values of three public implementations of TIGER: GRID, T5 under a trie, and their beams."""

import contextlib
import itertools
import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.decoding.trie_logits_processor import TrieLogitsProcessor
from hf_genrec.methods.tiger.modeling_tiger import TigerConfig, TigerForConditionalGeneration

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "golden/tiger").glob("*/case.json"))
GRID, T5_TRIE = "GRID TIGER", "LETTER-TIGER recommender (T5)"
T5_FIELDS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_heads",
    "num_layers",
    "num_decoder_layers",
    "feed_forward_proj",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
)
END = 1
# The originals take their softmax in float32 all the same, and its last bits are those of the vector unit: these values
# were made with AVX-512.
FLOAT64 = 1e-9 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 5e-6


def softmax_in_float32(
    module, query, key, value, attention_mask, scaling=1.0, dropout=0.0, position_bias=None, **kwargs
):
    """Attention of the transformers that the values are from, in float64 too: its softmax is in float32."""
    scores = query @ key.transpose(2, 3)
    scores = scores + (position_bias if attention_mask is None else position_bias + attention_mask)
    weights = scores.float().softmax(-1).type_as(scores)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@contextlib.contextmanager
def older_attention(model):
    model.set_attn_implementation("eager")
    with mock.patch("transformers.models.t5.modeling_t5.eager_attention_forward", softmax_in_float32):
        yield
    model.set_attn_implementation("sdpa")


def our_name(name: str) -> str:
    """A weight of GRID by our name."""
    for theirs, ours in (
        ("item_sid_embedding_table_encoder", "shared"),
        ("encoder.encoder.encoder.", "encoder."),
        ("decoder.decoder.", "decoder."),
        ("user_embedding.", "encoder.user_embeddings."),
        (".mlp.model.0.", ".inner.0."),
        (".mlp.model.2.", ".inner.1."),
        (".mlp.model.5.", ".outer."),
    ):
        name = name.replace(theirs, ours)
    return "encoder.separator.weight" if name == "sep_token" else name


def open_grid(folder, facts) -> TigerForConditionalGeneration:
    sizes = facts["config"]
    levels, codes = sizes["L"], sizes["codes"]
    config = TigerConfig(
        vocab_size=levels * codes + 2,
        codebook_sizes=[codes] * levels,
        answer_token_id=levels * codes,
        pad_token_id=levels * codes + 1,
        num_layers=sizes["encoder_layers"],
        num_decoder_layers=sizes["decoder_layers"],
        num_heads=sizes["heads"],
        item_separators=sizes["sep_token"],
        num_user_bins=sizes["user_bins"],
        mlp_layers=sizes["mlp_layers"],
        level_heads=True,
        **{name: sizes[name] for name in T5_FIELDS if name in sizes},
    )
    model = TigerForConditionalGeneration(config)
    theirs = load_file(folder / "state_dict.safetensors")
    own = {our_name(name): tensor for name, tensor in theirs.items() if "decoder_mlp" not in name}
    special = torch.zeros(2, config.d_model)
    own["shared.weight"] = torch.cat([own["shared.weight"], own.pop("decoder.bos_token"), special[:1]])
    heads = [theirs[f"decoder.decoder_mlp.{level}.weight"] for level in range(levels)]
    own["lm_head.weight"] = torch.cat([*heads, special])
    found = model.load_state_dict(own, strict=False)
    assert not found.unexpected_keys
    assert all("embed_tokens" in name for name in found.missing_keys)
    return model.eval()


def grid_inputs(facts, tensors) -> dict[str, torch.Tensor]:
    levels, codes = facts["config"]["L"], facts["config"]["codes"]
    ids = tensors["input_ids"]
    places = torch.arange(ids.shape[1]) % levels * codes
    inputs = {"input_ids": (ids.clamp(min=0) + places), "attention_mask": tensors["attention_mask"]}
    inputs["labels"] = tensors["target"] + torch.arange(levels) * codes
    if facts["config"]["user_bins"]:
        inputs["user_bins"] = tensors["user_id"][:, 0] % facts["config"]["user_bins"]
    return inputs


def grid_gaps(folder, facts) -> dict[str, float]:
    model, tensors = open_grid(folder, facts), load_file(folder / "inputs.safetensors")
    outputs, inputs = load_file(folder / "outputs.safetensors"), grid_inputs(facts, tensors)
    levels, codes, beams = (facts["config"][name] for name in ("L", "codes", "beams"))
    gaps = {}

    def of_levels(logits):
        return torch.stack([logits[:, level, level * codes : (level + 1) * codes] for level in range(levels)], 1)

    single = model(**inputs)
    gaps["logits, float32"] = gap(of_levels(single.logits), outputs["f32/logits"])
    gaps["loss, float32"] = abs(levels * single.loss.item() - facts["loss_f32"])
    model.double()
    with older_attention(model):
        double = model(**inputs)
        encoding = model.encoder(**{name: part for name, part in inputs.items() if name != "labels"})
    read = outputs["encoder_attention_mask"].bool()
    assert torch.equal(encoding.attention_mask.bool(), read)
    gaps["encoder, float64"] = gap(encoding.last_hidden_state[read], outputs["f64/encoder_output"][read])
    gaps["logits, float64"] = gap(of_levels(double.logits), outputs["f64/logits"])
    gaps["loss, float64"] = abs(levels * double.loss.item() - facts["loss_f64"])
    gradients = folder / "grads_f64.safetensors"
    if gradients.is_file():
        (levels * double.loss).backward()
        gaps["gradients, with parts in float32"] = max(grid_gradient_gaps(model, load_file(gradients), levels, codes))

    prompts = {name: part for name, part in inputs.items() if name != "labels"}
    every_item = torch.tensor(list(itertools.product(range(codes), repeat=levels)))
    catalogue = tensors["catalogue"]
    for kind, items, normalize in (("", every_item, "vocabulary"), ("constrained_", catalogue, "legal")):
        trie = ItemTrie.from_token_ids(items + torch.arange(levels) * codes)
        leaves, scores = beam_search(model, prompts, trie, beams, normalize=normalize)
        first, _ = trie.items_below(leaves, levels)
        found = trie.token_ids(first.flatten()).view(*leaves.shape, levels) - torch.arange(levels) * codes
        expected = outputs[f"f64/{kind}beam_ids"]
        gaps[f"{kind}beams that differ"] = float((found != expected).any(-1).sum())
        gaps[f"{kind}beam probabilities"] = gap(scores.exp(), outputs[f"f64/{kind}beam_probability"])
    return gaps


def grid_gradient_gaps(model, expected, levels: int, codes: int):
    """Of the weights whose gradients are recorded; the published loss is the sum over levels."""
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    own["decoder.bos_token"] = own["shared.weight"][levels * codes : levels * codes + 1]
    own["shared.weight"] = own["shared.weight"][: levels * codes]
    for level in range(levels):
        own[f"decoder.decoder_mlp.{level}.weight"] = own["lm_head.weight"][level * codes : (level + 1) * codes]
    for name, tensor in expected.items():
        name = name.removeprefix("grad/")
        name = name if name in own else our_name(name)
        yield gap(own[name], tensor)


def t5_gaps(folder, facts) -> dict[str, float]:
    sizes = facts["config"]
    fields = {name: sizes[name] for name in T5_FIELDS if name in sizes}
    model = TigerForConditionalGeneration(TigerConfig(decoder_start_token_id=0, pad_token_id=0, **fields)).eval()
    assert not model.load_state_dict(load_file(folder / "state_dict.safetensors"), strict=False).unexpected_keys
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    gaps = {}
    single = model(**prompts, labels=inputs["labels"])
    gaps["logits, float32"] = gap(single.logits, outputs["f32/logits"])
    gaps["loss, float32"] = abs(single.loss.item() - facts["loss_f32"])

    # The end token is one more code of each item.
    levels, beams, keep = sizes["L"], sizes["beams"], sizes["keep"]
    items = inputs["catalogue_tokens"]
    trie = ItemTrie.from_token_ids(torch.cat([items, torch.full_like(items[:, :1], END)], 1))
    leaves, scores = beam_search(model, prompts, trie, beams)
    found = trie.token_ids(trie.items_below(leaves[:, :keep].flatten(), levels + 1)[0])
    stock = model.generate(
        **prompts,
        num_beams=beams,
        num_return_sequences=keep,
        max_new_tokens=levels + 1,
        early_stopping=True,
        logits_processor=[TrieLogitsProcessor(trie, 0)],
        return_dict_in_generate=True,
        output_scores=True,
    )
    expected = outputs["f32/beam_sequences"]
    for name, sequences, of_name in (
        ("beams", found, scores[:, :keep].flatten() / (levels + 1)),
        ("generate", stock.sequences[:, 1:], stock.sequences_scores),
    ):
        gaps[f"{name} that differ"] = float((sequences != expected[:, 1:]).any(-1).sum())
        gaps[f"scores of {name}"] = gap(of_name, outputs["f32/beam_scores"])

    model.double()
    with older_attention(model):
        double = model(**prompts, labels=inputs["labels"])
    gaps["logits, float64"] = gap(double.logits, outputs["f64/logits"])
    gaps["loss, float64"] = abs(double.loss.item() - facts["loss_f64"])
    gradients = folder / "grads_f64.safetensors"
    if gradients.is_file():
        double.loss.backward()
        own = dict(model.named_parameters())
        gaps["gradients, with parts in float32"] = max(
            gap(own[name.removeprefix("grad/")].grad, part) for name, part in load_file(gradients).items()
        )
    return gaps


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found - expected).abs().max().item()


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output; of beams, how many differ."""
    if facts.get("part") == GRID:
        return grid_gaps(folder, facts)
    return t5_gaps(folder, facts) if facts.get("part") == T5_TRIE else None


def test_there_are_cases():
    assert len(CASES) == 5


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_values(folder):
    gaps = golden_gaps(folder, json.loads((folder / "case.json").read_text()))
    for name, value in gaps.items():
        limit = 0.5 if "differ" in name else FLOAT64 if "float64" in name else 1e-5
        assert value < limit, (name, value)
