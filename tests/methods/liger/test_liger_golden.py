"""Values of the published LIGER code, whose attention has its softmax in float32."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.methods.liger.modeling_liger import LigerConfig, LigerForConditionalGeneration

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "golden/liger").glob("*/case.json"))
NAMES = (
    ("emb_proj.out_projection.", "encoder.items.output."),
    ("input_embed_layernorm.", "encoder.input_norm."),
    ("pos_embedding.", "encoder.place_embeddings."),
    ("semantic_pos.", "encoder.level_embeddings."),
)
LAYER = {"mlp_blocks.{}.0.": "linear.", "mlp_blocks.{}.1.": "norm.", "residuals.{}.": "skip."}


def softmax_in_float32(
    module, query, key, value, attention_mask, scaling=1.0, dropout=0.0, position_bias=None, **kwargs
):
    scores = query @ key.transpose(2, 3)
    scores = scores + (position_bias if attention_mask is None else position_bias + attention_mask)
    weights = scores.float().softmax(-1).type_as(scores)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@contextlib.contextmanager
def older_attention(model):
    model.set_attn_implementation("eager")
    with mock.patch("transformers.models.t5.modeling_t5.eager_attention_forward", softmax_in_float32):
        yield


def our_name(name: str, layers: int) -> str:
    """A weight of the published code by our name."""
    names = list(NAMES)
    for index in range(layers):
        names += [
            (f"emb_proj.{theirs.format(index)}", f"encoder.items.layers.{index}.{ours}")
            for theirs, ours in LAYER.items()
        ]
    if not layers:
        names.append(("emb_proj.", "encoder.items.output."))
    for theirs, ours in names:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


class Case:
    """A case in float64, and the histories as rows of a catalogue: each place in a row is an item of its own."""

    def __init__(self, folder, facts):
        sizes = self.facts = facts["config"]
        self.inputs, self.outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        self.expected_gradients = load_file(folder / "grads_f64.safetensors")
        widths = [] if sizes.get("proj") == "linear" else sizes["hidden_sizes"][::-1]
        self.catalogue, read = self.inputs["item_text"], self.inputs["input_text"]
        self.items = len(self.catalogue)
        self.model = LigerForConditionalGeneration(
            LigerConfig(
                vocab_size=sizes["vocab"],
                codebook_sizes=[sizes["codes"]] * sizes["n_semantic"] + [sizes["last_codes"]],
                decoder_start_token_id=0,
                pad_token_id=0,
                max_history=sizes["max_items"],
                d_model=sizes["d_model"],
                d_kv=sizes["d_kv"],
                d_ff=sizes["d_ff"],
                num_heads=sizes["heads"],
                num_layers=sizes["encoder_layers"],
                num_decoder_layers=sizes["decoder_layers"],
                layer_norm_epsilon=sizes["layer_norm_epsilon"],
                num_items=self.items,
                item_vector_size=sizes["text_dim"],
                projector_sizes=widths,
                dense_temperature=sizes["tau"],
                sparse_loss_weight=sizes["sid_weight"],
                dense_loss_weight=sizes["embedding_weight"],
            )
        )
        theirs = load_file(folder / "state_dict.safetensors")
        own = {
            our_name(name, len(widths)): tensor.squeeze(1) if "residuals" in name else tensor
            for name, tensor in theirs.items()
        }
        found = self.model.load_state_dict(own, strict=False)
        assert not found.unexpected_keys
        assert all(
            "embed_tokens" in name or name in ("lm_head.weight", "encoder.items.text") for name in found.missing_keys
        )
        self.model.double().eval()
        self.layers = len(widths)
        # Behind the catalogue stand the texts of the rows, which may be nobody's.
        self.model.encoder.items.text = torch.cat([self.catalogue, read.flatten(0, 1)]).double()
        rows = self.items + torch.arange(read.shape[0] * read.shape[1]).view(read.shape[:2])
        popularity = torch.ones(self.items + rows.numel(), dtype=torch.long)
        popularity[torch.tensor(sizes["unseen_item_ids_1based"]) - 1] = 0
        self.popularity, self.rows = popularity, rows
        self.prompts = {
            "input_ids": self.inputs["input_sids"],
            "attention_mask": self.inputs["attention_mask"],
            "item_rows": rows,
        }

    def training(self, facts):
        model, items = self.model, self.items
        vectors = model.item_vectors
        # The catalogue alone is what targets are told from.
        model.item_vectors = lambda: vectors()[:items]
        model.processor = SimpleNamespace(popularity=self.popularity[:items].numpy(), item_ids=range(items))
        model.config.num_items = items
        with older_attention(model):
            output = model(**self.prompts, labels=self.inputs["labels"], target_rows=self.inputs["label_item"] - 1)
            output.loss.backward()
            encoding = model.encoder(**self.prompts)
        mask = self.inputs["attention_mask"].unsqueeze(-1)
        read = model.encoder.read(self.inputs["input_sids"], self.rows)
        users, cosines = model.user_vectors(encoding), model.user_vectors(encoding) @ model.item_vectors().T
        expected = self.outputs["f64/predicted_embedding"]
        losses = {"sid": output.losses["sparse"], "embedding": output.losses["dense"], "total": output.loss}
        gaps = {f"loss {name}": abs(value.item() - facts["loss_f64"][name]) for name, value in losses.items()}
        gaps |= {
            "what the encoder reads": gap(read * mask, self.outputs["f64/inputs_embeds"]),
            "logits": gap(output.logits, self.outputs["f64/logits"]),
            "users": gap(users, torch.nn.functional.normalize(expected, dim=-1)),
            "items": gap(model.item_vectors(), self.outputs["f64/item_vectors_normalised"]),
            "item scores": gap(cosines / self.facts["tau"], self.outputs["f64/item_scores"]),
        }
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        worst = 0.0
        for name, value in self.expected_gradients.items():
            name = our_name(name.removeprefix("grad/"), self.layers)
            worst = max(worst, gap(gradients[name], value.squeeze(1) if value.dim() == 3 else value))
        return gaps | {"gradients": worst}

    @torch.no_grad()
    def lists(self):
        """
        Gaps of the beams and of the lists, 1 where one differs. The published search is not constrained: a tuple that
        is no item is ranked with the vector of the first item.
        """
        model, facts, item_ids = self.model, self.facts, self.inputs["item_sids"]
        beams, levels = facts["beams"], facts["L"]
        with older_attention(model):
            written = model.generate(
                **self.prompts, num_beams=beams, num_return_sequences=beams, max_new_tokens=levels, do_sample=False
            )
            encoding = model.encoder(**self.prompts)
        codes = written[:, 1:].view(len(encoding.last_hidden_state), beams, levels)
        gaps = {"beams": float(not torch.equal(codes, self.outputs["f64/beam_ids"]))}
        cosines = model.user_vectors(encoding) @ model.item_vectors().T
        item_of = {tuple(ids): row for row, ids in enumerate(item_ids.tolist())}
        cold = (self.popularity[: self.items] == 0).nonzero()[:, 0].tolist()
        for count in facts["retrieve"]:
            expected = self.outputs[f"f64/hybrid_top_k{count}"]
            for user, lines in enumerate(codes.tolist()):
                rows = [item_of.get(tuple(line), -1) for line in lines[:count]] + cold
                # Tuples that are no items tie with each other, in no order of theirs.
                rows.sort(key=lambda row: -cosines[user, max(row, 0)].item())
                wanted = [item_of.get(tuple(line), -1) for line in expected[user].tolist()]
                same = rows[: len(wanted)] == wanted
                gaps[f"list of {count}"] = max(gaps.get(f"list of {count}", 0.0), float(not same))
        return gaps


def gap(ours, theirs) -> float:
    return (ours.detach() - theirs).abs().max().item()


def golden_gaps(folder, facts):
    """What `golden_cases.py` prints of a case."""
    if facts.get("method") != "liger":
        return None
    case = Case(folder, facts)
    gaps = case.training(facts)
    return gaps | (case.lists() if "f64/beam_ids" in case.outputs else {})


def test_there_are_cases():
    assert len(CASES) == 3


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_values(folder):
    for name, found in golden_gaps(folder, json.loads((folder / "case.json").read_text())).items():
        assert found < 1e-9, name
