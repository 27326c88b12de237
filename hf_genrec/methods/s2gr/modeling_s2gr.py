"""S2GR (arXiv 2601.18664): before each code the decoder's state goes through it once more, taught to be near the
cluster of the code to come."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from ...catalogue.transformers_bridge import CACHE, initialization
from ...decoding.code_t5 import CodeT5
from ...decoding.code_t5_stack import CodeT5Stack
from ...decoding.history_encoding import HistoryEncoding
from ...decoding.seq2seq_beams import decode_slots, memory_bias_of, memory_of
from ...decoding.shared_batch import counts_of_all, own_start, rows_of_all
from .configuration_s2gr import S2grConfig
from .s2gr_losses import cluster_losses, cosines, item_losses
from .thinking_beams import ThinkingBeamDecoder


class LevelEmbeddings(nn.Embedding):
    """A vector per level that thinks, added to its thinking vector."""


class ThoughtMap(nn.Linear):
    """From the decoder's states to the space of a codebook."""


class S2grForConditionalGeneration(CodeT5):
    """
    [`CodeT5`] whose decoder reads start token, thinking vector, code, thinking vector, code, ...: a thinking vector is
    the state of the slot before it plus a vector of its level, and the code is predicted from its state. Where no
    level thinks, this is [`CodeT5`] with its weights, losses and lists.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/s2gr-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    config_class = S2grConfig
    beam_decoder_class = ThinkingBeamDecoder

    def __init__(self, config: S2grConfig):
        super().__init__(config)
        if any(config.thinking):
            self.level_embeddings = LevelEmbeddings(sum(config.thinking), config.d_model)
        # Under a number for each level that is taught: the map, the centres (K_c, D), each code's cluster (K_l,).
        self.thought_maps = nn.ModuleDict()
        for level, (clusters, size) in enumerate(zip(config.num_clusters, config.codebook_sizes or (), strict=True)):
            if self._is_taught(level):
                self.thought_maps[str(level)] = ThoughtMap(config.d_model, config.code_dim, bias=False)
                self.register_buffer(f"centres_{level}", torch.zeros(clusters, config.code_dim))
                self.register_buffer(f"clusters_{level}", torch.zeros(size, dtype=torch.long))
        if config.learns_items:
            of_decoder = copy.deepcopy(self.decoder.config)
            of_decoder.num_layers = max(1, of_decoder.num_layers // 2)
            of_decoder.shared_kv_pool_size = 0  # it is read in training alone
            self.item_decoder = CodeT5Stack(of_decoder)
            self._tied_weights_keys = self._tied_weights_keys | {"item_decoder.embed_tokens.weight": "shared.weight"}
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LevelEmbeddings):
            initialization.normal_(module.weight, mean=0.0, std=0.02 * self.config.initializer_factor)
        elif isinstance(module, ThoughtMap):
            initialization.normal_(module.weight, mean=0.0, std=module.in_features**-0.5)

    def _is_taught(self, level: int) -> bool:
        return self.config.thinking[level] and self.config.num_clusters[level] > 0 and self.config.cluster_weight > 0

    @property
    def taught_levels(self) -> list[int]:
        """The levels whose thinking vectors are taught clusters."""
        return [level for level in range(len(self.config.thinking)) if self._is_taught(level)]

    def set_clusters(self, level: int, centres: torch.Tensor, clusters: torch.Tensor) -> None:
        """
        What the thinking vectors of a level are taught, if they are.

        Args:
            centres: (K_c, D) of the clusters.
            clusters: (K_l,) the cluster of each code.
        """
        if self._is_taught(level):
            getattr(self, f"centres_{level}").copy_(centres)
            getattr(self, f"clusters_{level}").copy_(clusters)

    # ---- decoding ----

    def thought(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """The thinking vector before the code of `level`, from the states (..., d) of the slot before it."""
        return states + self.level_embeddings.weight[sum(self.config.thinking[:level])]

    def _codes_in(self, cache: EncoderDecoderCache) -> int | torch.Tensor:
        if not any(self.config.thinking):
            return super()._codes_in(cache)
        slots, codes = int(cache.get_seq_length()), 0
        while slots > 0:
            slots -= 1 + int(self.config.thinking[min(codes, len(self.config.thinking) - 1)])
            codes += 1
        return codes

    def _decode(self, decoder_input_ids, encoding: HistoryEncoding, cache, use_cache, **kwargs):
        if not any(self.config.thinking):
            return super()._decode(decoder_input_ids, encoding, cache, use_cache, **kwargs)
        if cache is None:
            cache = EncoderDecoderCache(*(DynamicCache(config=self.config) for _ in range(2)))
        if cache.is_compileable:
            raise ValueError("A decoder that thinks grows its cache: leave cache_implementation out.")
        memory, bias = self._memory(encoding, cache)
        layers, first = cache.self_attention_cache.layers, self._codes_in(cache)

        def state_of(slot: torch.Tensor) -> torch.Tensor:
            depths = torch.arange(int(cache.get_seq_length()) + 1, device=slot.device)
            return decode_slots(self.decoder, slot, depths[-1:], layers, depths, memory, bias)

        states, thoughts = [], {}
        for place, slot in enumerate(self.shared(decoder_input_ids).split(1, dim=1)):
            state = state_of(slot)
            level = min(first + place, len(self.config.thinking) - 1)  # `generate` may go on behind the last code
            if self.config.thinking[level]:
                thoughts[level] = self.thought(state, level)
                state = state_of(thoughts[level])
            states.append(state)
        outputs = {"thoughts": thoughts} | ({CACHE: cache} if use_cache or use_cache is None else {})
        return torch.cat(states, dim=1), outputs

    def _memory(self, encoding: HistoryEncoding, cache: EncoderDecoderCache):
        """What the decoder reads of the histories, kept in the cache."""
        kept: Any = cache.cross_attention_cache
        if cache.is_updated.get(0):
            memory = [(layer.keys, layer.values) for layer in kept.layers]
            return memory, memory_bias_of(memory, encoding.attention_mask)
        memory, bias = memory_of(self.decoder, encoding)
        for index, (keys, values) in enumerate(memory):
            kept.update(keys, values, index)
            cache.is_updated[index] = True
        return memory, bias

    # ---- loss ----

    def _losses(self, logits, labels, total, encoding: HistoryEncoding, outputs, soft_targets):
        codes = self._code_loss(logits, labels, total, soft_targets)
        if not any(self.config.thinking):
            return codes, None
        config, thoughts = self.config, outputs["thoughts"]
        losses, loss = {"code": codes}, codes
        if self.taught_levels:
            parts = [
                cluster_losses(
                    self.mapped(thoughts[level][:, 0], level),
                    getattr(self, f"centres_{level}"),
                    self.target_clusters(labels, level),
                    config.temperature,
                )
                for level in self.taught_levels
            ]
            losses["cluster"] = torch.stack(parts).sum() / total
            loss = loss + config.cluster_weight * losses["cluster"]
        if config.learns_items:
            start = self.shared(labels.new_full((len(labels), 1), config.decoder_start_token_id))
            vectors = self.item_decoder(
                inputs_embeds=start,
                encoder_hidden_states=encoding.last_hidden_state,
                encoder_attention_mask=encoding.attention_mask,
                use_cache=False,
                return_dict=True,
            ).last_hidden_state[:, 0]
            items, of_items, start = self.shared(labels).mean(1), labels, 0
            if self.training:
                counts = counts_of_all(len(labels), labels.device)
                items, of_items, start = rows_of_all(items, counts), rows_of_all(labels, counts), own_start(counts)
            losses["item"] = item_losses(vectors, items, of_items, config.temperature, start).sum() / total
            loss = loss + config.item_weight * losses["item"]
            if thoughts.get(0) is not None:
                near = nn.functional.cosine_similarity(thoughts[0][:, 0], vectors.detach(), dim=-1)
                losses["thought"] = (1 - near).sum() / total
                loss = loss + config.thought_weight * losses["thought"]
        return loss, losses

    def mapped(self, thoughts: torch.Tensor, level: int) -> torch.Tensor:
        """Thinking vectors (B, d) in the space of the level's codebook, (B, D)."""
        return self.thought_maps[str(level)](thoughts)

    def target_clusters(self, labels: torch.Tensor, level: int) -> torch.Tensor:
        """(B,) the clusters of the codes (B, L) of targets."""
        return getattr(self, f"clusters_{level}")[labels[:, level] - sum(self.config.codebook_sizes[:level])]

    @torch.no_grad()
    def hits(self, labels: torch.Tensor, **inputs) -> dict[str, torch.Tensor]:
        """
        Where the model is right when it is given the right codes before.

        Args:
            labels: (B, L), the codes of the targets.
            inputs: what the encoder reads.

        Returns:
            `code` (B, L) boolean, whether the code is the likeliest of its level; `cluster` (B, taught levels), whether
            the thinking vector is nearest to the code's cluster.
        """
        encoding = self.encoder(**inputs)
        states, outputs = self._decode(self._shift_right(labels), encoding, None, False)
        logits = self.code_logits(self.scaled(states), torch.arange(states.shape[1], device=states.device))
        codes, clusters, start = [], [], 0
        for level, size in enumerate(self.config.codebook_sizes):
            likeliest = logits[:, level, start : start + size].argmax(-1) + start
            codes.append(likeliest == labels[:, level])
            if self._is_taught(level):
                near = cosines(self.mapped(outputs["thoughts"][level][:, 0], level), getattr(self, f"centres_{level}"))
                clusters.append(near.argmax(-1) == self.target_clusters(labels, level))
            start += size
        found = {"code": torch.stack(codes, 1)}
        return found | ({"cluster": torch.stack(clusters, 1)} if clusters else {})


S2grForConditionalGeneration.register_for_auto_class("AutoModel")
S2grForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["S2grConfig", "S2grForConditionalGeneration"]
