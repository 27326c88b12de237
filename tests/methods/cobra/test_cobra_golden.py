"""Values of phonism/genrec, a community's COBRA; the authors have published no code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.methods.cobra.community_cobra import additive_fusion
from hf_genrec.methods.cobra.modeling_cobra import CobraConfig, CobraForCausalLM

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "golden/cobra").glob("*/case.json"))
ENCODER_EPS = 1e-5


def unit(states):
    return nn.functional.normalize(states, dim=-1)


class TextEncoder(nn.Module):
    """Its encoder of token ids, which is trained with the decoder: here it gives the model vectors from outside."""

    def __init__(self, state_dict, config):
        super().__init__()
        width = config["encoder_dim"]
        own = {name.removeprefix("encoder."): tensor for name, tensor in state_dict.items() if name[:8] == "encoder."}
        self.embedding = nn.Embedding(*own["embedding.weight"].shape, padding_idx=0)
        self.pos_embedding = nn.Embedding(*own["pos_embedding.weight"].shape)
        layer = nn.TransformerEncoderLayer(
            width, config["encoder_heads"], config["encoder_ff"], 0.0, batch_first=True, layer_norm_eps=ENCODER_EPS
        )
        self.encoder = nn.TransformerEncoder(layer, config["encoder_layers"], enable_nested_tensor=False)
        self.layer_norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, config["d_model"])
        self.load_state_dict(own)

    def forward(self, ids):
        """(n, tokens) -> (n, d) of length 1; zeros are padding."""
        real = ids != 0
        real_somewhere = real | ~real.any(1, keepdim=True)  # a text without tokens is nobody's
        states = self.embedding(ids) + self.pos_embedding(torch.arange(ids.shape[1]))
        states = self.layer_norm(self.encoder(states, src_key_padding_mask=~real_somewhere))
        mean = (states * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        return nn.functional.normalize(self.proj(mean), dim=-1)


class Case:
    """
    A case in float64: model, encoder, and the rows as the model reads them: each position of a row is an item of its
    own, with the vector that the encoder makes of its text.
    """

    def __init__(self, folder, facts):
        config = facts["config"]
        self.facts, self.levels, self.codes = config, config["C"], config["id_vocab"]
        state_dict = {name: tensor.double() for name, tensor in load_file(folder / "state_dict.safetensors").items()}
        self.inputs, self.outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        self.expected_gradients = load_file(folder / "grads_f64.safetensors")
        self.encoder = TextEncoder(state_dict, config).double()
        items = self.inputs["text_ids"].shape[:2].numel()
        self.model = CobraForCausalLM.from_published(
            state_dict,
            CobraConfig(
                codebook_sizes=[self.codes] * self.levels,
                num_items=items,
                max_history=self.inputs["text_ids"].shape[1],
                hidden_size=config["d_model"],
                intermediate_size=config["decoder_ff"],
                num_hidden_layers=config["decoder_layers"],
                num_attention_heads=config["decoder_heads"],
                hidden_act="relu",
                dropout=0.0,
                norm_first=False,
                dense_temperature=config["temperature"],
                negatives="other_users",
            ),
        ).double()

        raw = self.inputs["input_ids"].unflatten(1, (-1, self.levels))  # (B, T, C)
        self.real = raw[..., -1] != config["pad_id"]
        first = self.model.config.vocab_size
        codes = torch.where(self.real.unsqueeze(-1), raw + self.codes * torch.arange(self.levels), first - 1)
        vectors = first + torch.arange(items).view(self.real.shape)
        vectors = torch.where(self.real, vectors, first - 1)
        self.tokens = torch.cat([codes, vectors.unsqueeze(-1)], -1).flatten(1)  # (B, T * (C + 1))
        self.mask = self.real.repeat_interleave(self.levels + 1, 1)

    def table(self):
        return self.encoder(self.inputs["text_ids"].flatten(0, 1))

    def training(self):
        """Gaps of losses, states, vectors and gradients."""
        table = self.table()
        labels = self.tokens.masked_fill(~self.mask, -100)
        labels[:, : self.levels + 1] = -100  # the first item is none
        output = self.model(self.tokens, self.mask, labels=labels, item_vectors=table)
        output.loss.backward()
        states = output.last_hidden_state.detach() * self.mask.unsqueeze(-1)
        real_vectors = table.detach().view(*self.real.shape, -1)[self.real]
        gaps = {
            "states": (states - self.outputs["f64/hidden"]).abs().max().item(),
            "vectors": (real_vectors - self.outputs["f64/item_vectors"][self.real]).abs().max().item(),
        }
        return output, gaps | {"gradients": max(self.gradient_gaps().values())}

    def gradient_gaps(self):
        """By the names of the original."""
        ours = {}
        own = self.model
        for name, parameter in self.encoder.named_parameters():
            ours[f"encoder.{name}"] = parameter.grad
        for theirs, table in (
            ("id_embed", own.model.embed_tokens),
            ("pos_embed", own.model.position_embeddings),
            ("type_embed", own.model.type_embeddings),
        ):
            ours[f"cobra_emb.{theirs}.weight"] = table.weight.grad
        for level in range(self.levels):
            at = own.level_tokens(level)
            ours[f"sparse_head.{level}.weight"] = own.code_head.weight.grad[at]
            ours[f"sparse_head.{level}.bias"] = own.code_head.bias.grad[at]
        for index, layer in enumerate(own.model.layers):
            place, attention = f"decoder.decoder.layers.{index}.", layer.attention
            parts = (attention.query, attention.key, attention.value)
            for kind in ("weight", "bias"):
                ours[f"{place}self_attn.in_proj_{kind}"] = torch.cat([getattr(part, kind).grad for part in parts])
                for theirs, module in (
                    ("self_attn.out_proj", attention.output),
                    ("norm1", layer.attention_norm),
                    ("norm2", layer.memory_norm),
                    ("norm3", layer.feed_forward_norm),
                    ("linear1", layer.feed_forward.up),
                    ("linear2", layer.feed_forward.down),
                ):
                    ours[f"{place}{theirs}.{kind}"] = getattr(module, kind).grad
            ours[f"{place}multihead_attn.out_proj.bias"] = layer.empty_memory.grad
        gaps = {}
        for name, expected in self.expected_gradients.items():
            name = name.removeprefix("grad/")
            if name not in ours:  # of a cross-attention that reads nothing
                gaps[name] = expected.abs().max().item()
                continue
            # The tables of codes and positions have other rows behind those that are used.
            rows = min(len(expected), len(ours[name]))
            if name == "cobra_emb.id_embed.weight":
                rows = self.codes * self.levels
            gaps[name] = (ours[name][:rows] - expected[:rows]).abs().max().item()
        return gaps

    @torch.no_grad()
    def search(self, dtype):
        """Codes (B, W, C), log-probabilities, and the states that the last codes were predicted from, (B, W, d)."""
        model, beams = self.model.to(dtype), self.facts["beams"]
        every = torch.cartesian_prod(*[torch.arange(self.codes)] * self.levels)
        trie = ItemTrie.from_token_ids(every + self.codes * torch.arange(self.levels))
        table = self.table().to(dtype)
        embed = model.model.embed
        model.model.embed = lambda ids, vectors=None: embed(ids, table)
        try:
            prompts = {"input_ids": self.tokens, "attention_mask": self.mask.long()}
            leaves, scores = beam_search(model, prompts, trie, beams)
            tokens = trie.token_ids(leaves.flatten()).view(*leaves.shape, -1)  # a leaf holds one item
            paths = torch.cat([self.tokens[:, None].expand(-1, beams, -1), tokens[..., :-1]], -1).flatten(0, 1)
            states = model(paths).last_hidden_state[:, -1].view(*leaves.shape, -1)
        finally:
            model.model.embed = embed
            model.double()
        return tokens - self.codes * torch.arange(self.levels), scores, states

    def fusion(self):
        """Gaps of the beams and of the fused lists; whole lists of codes count as 1 where they differ."""
        codes, scores, states = self.search(torch.float64)
        gaps = {
            "beam codes": float(not torch.equal(codes, self.outputs["f64/beam_ids"])),
            "beam log-probabilities (float32)": (scores - self.outputs["f64/beam_logprob"]).abs().max().item(),
            "beam states": (unit(states) - unit(self.outputs["f64/beam_dense"])).abs().max().item(),
        }
        catalogue, log_probs = self.inputs["catalogue_vectors"].double(), self.outputs["f64/beam_logprob"]
        for alpha in self.facts["alphas"]:
            items, fused = additive_fusion(log_probs, states, catalogue, alpha, self.facts["keep"])
            expected = self.outputs[f"f64/fusion_a{alpha}_scores"]
            gaps["fused scores"] = max(gaps.get("fused scores", 0.0), (fused - expected).abs().max().item())
            same = torch.equal(items, self.outputs[f"f64/fusion_a{alpha}_items"])
            gaps["fused items"] = max(gaps.get("fused items", 0.0), float(not same))
        return gaps


def golden_gaps(folder, facts):
    """What `golden_cases.py` prints of a case; all but the search in float64."""
    if facts.get("method") != "cobra" or "id_vocab" not in facts.get("config", {}):
        return None
    case = Case(folder, facts)
    output, gaps = case.training()
    for name, value in (("total", output.loss), *output.losses.items()):
        gaps[f"loss {name}"] = abs(value.item() - facts["loss_f64"][name])
    return gaps | (case.fusion() if "f64/beam_ids" in case.outputs else {})


def test_there_are_cases():
    assert len(CASES) == 3


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_values(folder):
    facts = json.loads((folder / "case.json").read_text())
    gaps = golden_gaps(folder, facts)
    for name, gap in gaps.items():
        assert gap < (1e-5 if "float32" in name else 1e-9), name
    assert ("fused items" in gaps) == (folder.name == "fusion_alpha05")


def test_a_weight_that_is_missing_is_named():
    state_dict = load_file(CASES[0] / "state_dict.safetensors")
    del state_dict["sparse_head.1.bias"]
    with pytest.raises(ValueError, match=r"lack 'sparse_head\.1\.bias'"):
        CobraForCausalLM.from_published(state_dict, CobraConfig(codebook_sizes=[10] * 3, num_hidden_layers=2))
