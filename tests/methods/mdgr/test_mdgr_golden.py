"""Values of liuzhao09/DiffGRM, whose layers, views and beam MDGR's are; MDGR itself has no published code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.methods.mdgr.mdgr_masks import guided_views
from hf_genrec.methods.mdgr.modeling_mdgr import MdgrConfig, MdgrForMaskedLM

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "golden/diffgrm").glob("*/case.json"))
SPECIAL = 3  # tokens before the codes: padding, start, end
NORMS = {"encoder": ("attention", "feed_forward"), "decoder": ("attention", "cross", "feed_forward")}


def renamed(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights, or their gradients, by our names. Of the tokens that are no codes, ours has the padding and the mask."""
    own = {}
    for name, tensor in published.items():
        place, _, rest = name.partition(".")
        if place == "embedding":
            special = torch.stack([torch.zeros_like(tensor[0]), tensor[0]])
            own["model.encoder.embed_tokens.weight"] = torch.cat([tensor[SPECIAL:], special])
        elif place == "item_mlp":
            number, kind = rest.split(".")
            own[f"model.encoder.{'item_in' if number == '0' else 'item_out'}.{kind}"] = tensor
        elif place in ("pos_emb_enc", "mask_emb_table", "ln_f"):
            ours = {"pos_emb_enc": "encoder.embed_places", "mask_emb_table": "decoder.mask_vectors"}
            own[f"model.{ours.get(place, 'encoder.norm')}.{rest}"] = tensor
        else:
            side, number, part, rest = place.removesuffix("_blocks"), *rest.split(".", 2)
            layer = f"model.{side}.layers.{number}"
            if part.startswith("ln_"):
                own[f"{layer}.{NORMS[side][int(part[3:]) - 1]}_norm.{rest}"] = tensor
            elif part == "mlp":
                own[f"{layer}.feed_forward.{rest.replace('c_fc', 'up').replace('c_proj', 'down')}"] = tensor
            else:
                attention = "cross_attention" if part == "cross_attn" else "attention"
                kinds = {"qkv.weight": ("query", "key", "value")}.get(rest, ("output",))
                for kind, rows in zip(kinds, tensor.chunk(len(kinds)), strict=True):
                    own[f"{layer}.{attention}.{kind}.{rest.split('.')[-1]}"] = rows
    return own


class Case:
    """A case in float64: the model, and its histories as ours reads them, padded on the left."""

    def __init__(self, folder, facts):
        self.facts = config = facts["config"]
        self.levels, self.codes = config["L"], config["codes"]
        self.inputs, self.outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        gradients = load_file(folder / "grads_f64.safetensors")
        self.gradients = renamed({name.removeprefix("grad/"): tensor for name, tensor in gradients.items()})
        self.model = MdgrForMaskedLM(
            MdgrConfig(
                codebook_sizes=[self.codes] * self.levels,
                max_history=config["max_history"],
                hidden_size=config["d"],
                intermediate_size=config["inner"],
                num_encoder_layers=config["encoder_layers"],
                num_hidden_layers=config["decoder_layers"],
                num_attention_heads=config["heads"],
                norm_type=config["norm_type"],
                norm_eps=config["norm_eps"],
                dropout=0.0,
                label_smoothing=config["label_smoothing"],
            )
        ).double()
        state_dict = load_file(folder / "state_dict.safetensors")
        self.model.load_state_dict({name: tensor.double() for name, tensor in renamed(state_dict).items()})
        self.lengths = self.inputs["history_mask"].sum(1).tolist()
        starts = torch.arange(self.levels) * self.codes
        self.labels = self.inputs["labels"] + starts
        codes = torch.full_like(self.inputs["history_sid"], self.model.config.pad_token_id)
        for line, length in enumerate(self.lengths):
            codes[line, codes.shape[1] - length :] = self.inputs["history_sid"][line, :length] + starts
        self.input_ids = codes.flatten(1)
        # Published, the zeros in the place of padding are read by the decoder, too.
        self.encoding = self.model.get_encoder()(self.input_ids)
        self.states = self.encoding.last_hidden_state
        self.encoding.item_mask = torch.ones_like(self.encoding.item_mask)
        self.views = len(self.expected("mask_positions")) // len(self.labels)

    def expected(self, name):
        return self.outputs[f"f64/{name}"]

    def per_target(self, name):
        """(B, views, ...) of what is published view after view."""
        return self.expected(name).unflatten(0, (self.views, -1)).transpose(0, 1)

    def confidence(self, hidden):
        """Published: here, and nowhere else, the encoder's states are keys and values as they are."""
        attention = self.model.model.decoder.layers[0].cross_attention
        raw = attention.heads(self.states)
        memory = [(raw, raw)] * len(self.model.model.decoder.layers)
        ids = self.labels.masked_fill(hidden, self.model.config.mask_token_id)
        output = self.model(decoder_input_ids=ids, encoder_outputs=self.encoding, memory=memory)
        return self.model.code_log_probs(output.logits).unflatten(-1, (self.levels, -1)).amax(-1)

    def beam(self, num_beams, topk):
        """Published: all (slot, code) pairs compete, nothing is merged, the last slot takes its best code."""
        mask, found = self.model.config.mask_token_id, []
        for line in range(len(self.labels)):
            encoding = self.encoding.of_users(torch.tensor([line]))
            paths = [(0.0, [mask] * self.levels)]
            for step in range(self.levels):
                extended = []
                logits = self.model(
                    decoder_input_ids=torch.tensor([ids for _, ids in paths]), encoder_outputs=encoding
                ).logits
                of_paths = self.model.code_log_probs(logits).unflatten(-1, (self.levels, -1))
                for (score, ids), log_probs in zip(paths, of_paths, strict=True):
                    for slot in [slot for slot in range(self.levels) if ids[slot] == mask]:
                        last = step + 1 == self.levels
                        codes = [int(log_probs[slot].argmax())] if last else range(self.codes)
                        for code in codes:
                            token = slot * self.codes + code
                            more = [*ids[:slot], token, *ids[slot + 1 :]]
                            extended.append((score + float(log_probs[slot, code]), more))
                paths = sorted(extended, key=lambda path: -path[0])[:num_beams]
            different = list(dict.fromkeys(tuple(ids) for _, ids in paths))[:topk]
            found.append(different + different[-1:] * (topk - len(different)))
        return torch.tensor(found) - torch.arange(self.levels) * self.codes


def gap(ours, theirs):
    return float((ours - theirs).detach().abs().max())


def golden_gaps(folder: Path, facts: dict) -> dict[str, float] | None:
    if facts.get("method") != "diffgrm":
        return None
    case = Case(folder, facts)
    model, config = case.model, case.facts
    hidden = [
        case.states[line, case.states.shape[1] - length :] - case.expected("encoder_hidden")[line, :length]
        for line, length in enumerate(case.lengths)
    ]
    masked = case.per_target("mask_positions")
    output = model(encoder_outputs=case.encoding, labels=case.labels, masked=masked)
    output.loss.backward()
    logits = output.logits.unflatten(0, (-1, case.views)).unflatten(-1, (case.levels, -1))
    full = model(encoder_outputs=case.encoding).logits.unflatten(-1, (case.levels, -1))
    gaps = {
        "encoder_hidden": max(float(part.detach().abs().max()) for part in hidden),
        "logits": gap(logits, case.per_target("logits")),
        "full_mask_logits": gap(full, case.expected("full_mask_logits")),
        "loss": abs(output.loss.item() - facts["loss_f64"]),
        "gradients": max(gap(parameter.grad, case.gradients[name]) for name, parameter in model.named_parameters()),
    }
    with torch.no_grad():
        if config["masking_strategy"] == "guided":
            all_hidden = torch.ones_like(case.labels, dtype=torch.bool)
            views = guided_views(case.confidence, all_hidden, config["guided_select"], config["refresh"])
            gaps["mask_positions"] = float((views != masked).sum())
        gaps["beam"] = gap(case.beam(config["beam"], config["topk"]), case.expected("beam"))
    return gaps


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_published_values(folder):
    gaps = golden_gaps(folder, json.loads((folder / "case.json").read_text()))
    assert max(gaps.values()) < 1e-9, gaps
