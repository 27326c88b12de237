"""LIGER (arXiv 2411.18814): TIGER's codes find candidates, and a dense vector from the encoder ranks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...catalogue.evaluation_mode import evaluation_mode
from ...catalogue.flat_lists import expand_ranges
from ...catalogue.item_vectors import checked_vectors, without_rows
from ...catalogue.request_checks import (
    checked_beams,
    checked_choice,
    checked_request,
    checked_row_histories,
    checked_rows,
)
from ...catalogue.sound_scores import require_sound, require_sound_weights
from ...catalogue.transformers_bridge import initialization as init
from ...catalogue.transformers_bridge import returns_tuples, takes_cache
from ...decoding.beam_search import beam_search
from ...decoding.code_loss import at_least_float32
from ...decoding.code_t5 import CodeT5, CodeT5Output
from ...decoding.history_encoding import HistoryEncoding
from ...decoding.user_cache import check_user_cache
from ...decoding.whole_history_cache import WholeHistoryCache
from .configuration_liger import LigerConfig
from .liger_choices import RETRIEVAL
from .liger_layers import LigerEncoder, TextVectors
from .processing_liger import LigerProcessor

BEAMS = 20  # as published
UNSEEN = -100.0  # logit of items without a training interaction in the dense loss


@dataclass
class LigerOutput(CodeT5Output):
    """
    [`CodeT5Output`] with the terms of the loss.

    Args:
        loss: `sparse_loss_weight * losses["sparse"] + dense_loss_weight * losses["dense"]`.
        losses: the unweighted terms by name: the cross-entropy per code, and that of the dense vectors.
    """

    losses: dict[str, torch.Tensor] | None = None


class LigerForConditionalGeneration(CodeT5):
    """
    [`CodeT5`] that reads the items' text beside their codes. The encoder's last state is the user's dense vector.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/liger-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    config_class = LigerConfig
    processor_class = LigerProcessor
    encoder: Any

    def __init__(self, config: LigerConfig):
        super().__init__(config)
        self.encoder = LigerEncoder(self.encoder.config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TextVectors):
            init.constant_(module.text, float("nan"))  # marks that none are set
            for linear in (part for part in module.modules() if isinstance(part, nn.Linear)):
                init.normal_(linear.weight, std=linear.in_features**-0.5)
                if linear.bias is not None:
                    init.zeros_(linear.bias)
        elif isinstance(module, LigerEncoder):
            for table in (module.place_embeddings, module.level_embeddings):
                init.normal_(table.weight, std=self.config.initializer_factor)

    def set_item_vectors(self, vectors: np.ndarray | torch.Tensor) -> None:
        """
        Give the items their text embeddings; they are saved with the weights.

        Args:
            vectors: (N, D), in catalogue order.

        Raises:
            ValueError: for another shape, or vectors with NaN or infinity.
        """
        items = self.encoder.items
        items.text.copy_(checked_vectors(vectors, len(items.text), items.text))

    # ---- losses ----

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        item_rows: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        encoder_outputs: HistoryEncoding | None = None,
        cache=None,
        labels: torch.LongTensor | None = None,
        target_rows: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> LigerOutput:
        r"""
        Args:
            input_ids, attention_mask, item_rows: see [`LigerEncoder.forward`].
            decoder_input_ids, encoder_outputs, cache, labels, num_items_in_batch: see [`CodeT5.forward`].
            target_rows (`torch.LongTensor` of shape `(B,)`, *optional*):
                Catalogue rows of the next items; without them the loss is that of the codes alone.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, item_rows)
        output = super().forward(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=encoder_outputs,
            cache=cache,
            labels=labels,
            use_cache=use_cache,
            num_items_in_batch=num_items_in_batch,
            **kwargs,
        )
        found = LigerOutput(**output)
        if labels is None:
            return found
        found.losses = {"sparse": output.loss}
        found.loss = self.config.sparse_loss_weight * output.loss
        if target_rows is not None:
            targets: Any = len(target_rows)
            if num_items_in_batch is not None:  # codes
                targets = num_items_in_batch / labels.shape[1]
            found.losses["dense"] = self.dense_loss(encoder_outputs, target_rows) / targets
            found.loss = found.loss + self.config.dense_loss_weight * found.losses["dense"]
        return found

    def dense_loss(self, encoding: HistoryEncoding, target_rows: torch.Tensor) -> torch.Tensor:
        """The softmax over the cosines of all items, summed over the targets (B,); items of no training interaction
        have a logit that no gradient reaches."""
        logits = self.user_vectors(encoding) @ self.item_vectors().T / self.config.dense_temperature
        if self.processor is not None:
            unseen = torch.from_numpy(self.processor.popularity == 0).to(logits.device)
            logits = logits.masked_fill(unseen, UNSEEN)
        return nn.functional.cross_entropy(logits, target_rows, reduction="sum")

    def user_vectors(self, encoding: Any) -> torch.Tensor:
        """(B, d), one long: of a [`HistoryEncoding`], the states at the last slots that are no padding."""
        slots = torch.arange(1, encoding.attention_mask.shape[1] + 1, device=self.device)
        last = (encoding.attention_mask * slots).argmax(-1)
        return _unit(encoding.last_hidden_state[torch.arange(len(last), device=self.device), last])

    def item_vectors(self) -> torch.Tensor:
        """
        (N, d), one long.

        Raises:
            ValueError: for a processor with more items or fewer.
        """
        if self.processor is not None and len(self.processor.item_ids) != self.config.num_items:
            raise ValueError(
                f"The processor has {len(self.processor.item_ids)} items, the model {self.config.num_items}: new items "
                f"enter by the model's add_items."
            )
        return _unit(self.encoder.items())

    def similarity_vectors(self) -> torch.Tensor:
        """The dense vectors."""
        return self.item_vectors()

    # ---- lists ----

    def recommend_rows(  # type: ignore[override]
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        retrieval: str | None = None,
        user_cache: WholeHistoryCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Of the items that a beam search finds, and of those without a training interaction, the best by the cosine of
        user and item.

        Args:
            num_beams (*optional*): defaults to `max(k, 20)`, so that lists of up to 20 are of the same candidates; to
                `max(2 * k, 20)` where `retrieval="sparse"`.
            batch_size: histories decoded at a time.
            retrieval (*optional*): by default the configuration's. `"hybrid"`; `"sparse"`: the beams alone, by the sum
                of their codes' log-probabilities; `"dense"`: all items by the cosine.
            user_cache (*optional*): see [`Seq2SeqRecommenderMixin.recommend_rows`].

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        retrieval = self._checked_retrieval(retrieval)
        if retrieval == "sparse":
            return super().recommend_rows(
                histories, k, exclude_seen, candidates, num_beams, batch_size, user_cache=user_cache
            )
        processor = self._require_processor()
        request = checked_request(len(processor.item_ids), histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        check_user_cache(user_cache, whole=True)
        num_beams = checked_beams(request.count, max(request.count, BEAMS) if num_beams is None else num_beams)
        trie = processor.trie if candidates is None else processor.trie.restrict(request.candidates)
        trie, cold = trie.to(self.device), torch.from_numpy(processor.popularity == 0).to(self.device)
        with evaluation_mode(self), torch.no_grad():
            vectors = self.item_vectors().float()

        def find(inputs, seen, closed, num_beams=num_beams):
            encoding = self.encoder(**inputs) if user_cache is None else user_cache.encoding(self, **inputs)
            scores = self.user_vectors(encoding).float() @ vectors.T
            require_sound(self, scores)
            if retrieval == "dense" or num_beams >= trie.num_leaves:
                return scores.masked_fill(closed, -torch.inf)
            excluded = None if seen is None else self._item_keys(trie, seen)
            read = {"input_ids": inputs["input_ids"], "encoder_outputs": encoding}
            leaves, log_probs = beam_search(self, read, trie, num_beams, excluded)
            require_sound(self, log_probs)
            start, end = trie.items_below(leaves.clamp(min=0), trie.num_levels)
            place, leaf = expand_ranges(start.flatten(), torch.where(leaves >= 0, end, start).flatten())
            found = cold.repeat(len(scores), 1)
            found[leaf // leaves.shape[1], trie.items[place].long()] = True
            enough = (~closed).sum(1).clamp(max=request.count)
            if ((found & ~closed).sum(1) < enough).any():  # of beams that the model ruled out (-inf)
                return find(inputs, seen, closed, 4 * num_beams)
            return scores.masked_fill(closed | ~found, -torch.inf)

        return self._by_item_scores(request, exclude_seen, user_cache, find)

    def score_rows(
        self, histories: Sequence[np.ndarray], rows: np.ndarray, retrieval: str | None = None
    ) -> torch.Tensor:
        """The cosine of user and item; with `retrieval="sparse"` the sum of the codes' log-probabilities."""
        if self._checked_retrieval(retrieval) == "sparse":
            return super().score_rows(histories, rows)
        processor = self._require_processor()
        histories = checked_row_histories(histories, len(processor.item_ids))
        rows = checked_rows(rows, len(processor.item_ids), "rows")
        if not len(histories) or not len(rows):
            return torch.empty(len(histories), len(rows), device=self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        with torch.no_grad():
            vectors = self.item_vectors().float()[torch.from_numpy(rows).to(self.device)]
            return require_sound(self, self.user_vectors(self.encoder(**inputs)).float() @ vectors.T)

    def _checked_retrieval(self, retrieval: str | None) -> str:
        return self.config.retrieval if retrieval is None else checked_choice("retrieval", retrieval, RETRIEVAL)

    def add_items(self, item_ids: Sequence[str], codes, vectors, titles: Sequence[str] | None = None):
        """
        New items, with codes from the item tokenizer and text embeddings made as those of the catalogue were, enter its
        end: until they have training interactions they are candidates of every user.

        Args:
            item_ids: M ids that the catalogue does not have.
            codes: (M, L) semantic IDs.
            vectors: (M, D) text embeddings.
            titles (*optional*): M titles for people to read.

        Returns:
            the model.

        Raises:
            ValueError: for an id that is there already, lengths that differ, a code outside its codebook, or vectors
                with NaN or infinity. Nothing is changed then.
        """
        items = self.encoder.items
        new = checked_vectors(vectors, len(item_ids), items.text)
        self._require_processor().add_items(item_ids, codes, titles)
        items.text = torch.cat([items.text, new])
        self.config.num_items = len(items.text)
        return self

    def remove_items(self, item_ids: Sequence[str]):
        """
        These items leave the catalogue, and their vectors the model; the rows of those behind them move up.

        Returns:
            the model.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        items, processor = self.encoder.items, self._require_processor()
        gone = processor.rows(item_ids, where="item_ids")
        processor.remove_items(item_ids)
        items.text = without_rows(items.text, gone)
        self.config.num_items = len(items.text)
        return self


def _unit(states: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(at_least_float32(states), dim=-1)


LigerForConditionalGeneration.register_for_auto_class("AutoModel")
LigerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["LigerConfig", "LigerForConditionalGeneration"]
