"""CodeTree: items are read whole, and the next one's codes are written down the tree of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from ...catalogue.device_waits import places_of, require
from ...catalogue.flat_code import FlatModelCode
from ...catalogue.item_trie import ItemTrie
from ...catalogue.item_vectors import without_rows
from ...catalogue.transformers_bridge import returns_tuples
from ...catalogue.weights_mark import WeightsCopy, weights_mark
from ...decoding.code_loss import SoftTargets, code_loss
from ...decoding.history_encoding import HistoryEncoding
from ...decoding.recommend_by_seq2seq import Seq2SeqRecommenderMixin
from ...decoding.whole_history_cache import WholeHistoryCache
from .codetree_beams import CodeTreeBeamDecoder, spread
from .codetree_layers import CodeHead, CodeTreeLayer, CodeTreeVectors, HistoryReader
from .configuration_codetree import CodeTreeConfig


@dataclass
class CodeTreeOutput(ModelOutput):
    """
    Args:
        loss: mean over the targets of the sum over their codes of -log P(code).
        losses: the mean of each code by itself, `code_1`, `code_2`, ...
        logits: (B, T, vocab_size), row i for the code behind token i of `decoder_input_ids`: log-probabilities of the
            codes that some item goes on with there, the lowest number for all others. `None` with labels.
        encoder_last_hidden_state: (B, 1, d), of the histories.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None


class CodeTreeForConditionalGeneration(Seq2SeqRecommenderMixin, FlatModelCode, PreTrainedModel, GenerationMixin):
    """
    A history is read with one place per item, as SASRec reads it. An item's vector is the sum of the vectors of its
    codes and of one of its own; a node of the catalogue's trie has the mean over the items below it. The next item's
    codes are written one after the other, each by a softmax over what the trie goes on with: the product of a state
    with the nodes' vectors. The state knows the history and the codes so far.

    The tree is that of the processor, which the model needs.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/codetree-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    config_class = CodeTreeConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    beam_decoder_class = CodeTreeBeamDecoder  # type: ignore[assignment]
    _no_split_modules = ["CodeTreeLayer"]  # noqa: RUF012
    _supports_sdpa = True
    # the trie and the weights of the last time, and what was made of them
    _tree: tuple[ItemTrie, Any, WeightsCopy, CodeTreeVectors] | None = None

    def __init__(self, config: CodeTreeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.item_embeddings = nn.Embedding(config.num_items, config.hidden_size)
        self.prefix_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_history + 1, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(CodeTreeLayer(config) for _ in range(config.num_hidden_layers))
        self.heads = nn.ModuleList(CodeHead(config, has_prefix=level > 0) for level in range(config.num_levels))
        self.post_init()
        # No end token is ever trained: an item ends with its last code.
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_levels,
            pad_token_id=config.pad_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
            do_sample=False,
            use_cache=False,
        )

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):  # type: ignore[override]
        self.embed_tokens = value

    def get_encoder(self, *args, **kwargs):
        """What reads histories, see [`encode`]."""
        return HistoryReader(self)

    # ---- the tree ----

    def item_vectors(self) -> torch.Tensor:
        """
        (N, d), in catalogue order. Items that have entered since the training have the vectors of their codes alone.

        Raises:
            ValueError: without a processor, or for one with fewer items than the model.
        """
        processor, own = self._require_processor(), self.item_embeddings.weight
        new = len(processor.item_ids) - len(own)
        if new < 0:
            raise ValueError(
                f"The processor has {len(processor.item_ids)} items, the model {len(own)}: items leave by the model's "
                f"remove_items."
            )
        token_ids = torch.from_numpy(processor.token_ids).to(own.device)
        return self.embed_tokens(token_ids).sum(1) + nn.functional.pad(own, (0, 0, 0, new))

    def tree(self) -> CodeTreeVectors:
        """The nodes' vectors, as the weights are now. Without gradients those of the last time, if nothing changed."""
        trie = self._require_processor().trie
        if torch.is_grad_enabled():
            self._tree = None
            return self._made_tree(trie)
        mark, tables = weights_mark(self), nn.ModuleList([self.embed_tokens, self.item_embeddings])
        if self._tree is not None:
            trie_then, mark_then, tables_then, made = self._tree
            if trie_then is trie and mark_then == mark and tables_then.is_of(tables):
                return made
        made = self._made_tree(trie)
        self._tree = (trie, mark, WeightsCopy(tables), made)
        return made

    def _made_tree(self, trie: ItemTrie) -> CodeTreeVectors:
        vectors = self.item_vectors()
        return CodeTreeVectors(trie.to(vectors.device), vectors)

    def similarity_vectors(self) -> torch.Tensor:
        """(N, d), those that are read and scored."""
        return self.item_vectors()

    def prefix_of(self, codes: torch.Tensor) -> torch.Tensor | None:
        """(..., d), what the heads read of codes (..., l) so far; `None` of no code."""
        return self.prefix_embeddings(codes).sum(-2) if codes.shape[-1] else None

    # ---- histories ----

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, tree: CodeTreeVectors | None = None
    ) -> HistoryEncoding:
        """
        The state behind each history.

        Args:
            input_ids, attention_mask: (B, S), prompts of the processor.

        Returns:
            a [`HistoryEncoding`] of (B, 1, d).

        Raises:
            ValueError: for tokens that are no items of the catalogue, or histories longer than `max_history`.
        """
        states = self.states(input_ids, attention_mask, self.tree() if tree is None else tree)[:, -1:]
        return HistoryEncoding(states, attention_mask=torch.ones_like(states[..., 0]))

    def states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, tree: CodeTreeVectors
    ) -> torch.Tensor:
        """
        Like [`encode`], but behind each item: (B, 1 + S // L, d), the first of a row behind nothing. Rows are padded on
        the left, as the prompts are.
        """
        leaves = self.leaves(input_ids, attention_mask, tree.trie)
        items, real = tree.levels[-1][leaves.clamp(min=0)], leaves >= 0
        # A place more: before the first item of each row stands what begins it.
        columns = torch.arange(leaves.shape[1] + 1, device=leaves.device)
        begins = columns == leaves.shape[1] - real.sum(1, keepdim=True)
        start = self.embed_tokens.weight[self.config.answer_token_id]
        items = torch.where(begins.unsqueeze(-1), start, nn.functional.pad(items, (0, 0, 1, 0)))
        real = nn.functional.pad(real, (1, 0)) | begins
        places = (real.cumsum(1) - 1).clamp(min=0)
        hidden = self.dropout(self.norm(items + self.position_embeddings(places)))
        # Padding attends to itself: softmax over nothing is not a number.
        allowed = (real.unsqueeze(1) & (columns <= columns[:, None])) | (columns == columns[:, None])
        for layer in self.layers:
            hidden = layer(hidden, allowed.unsqueeze(1))
        return hidden

    def leaves(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, trie: ItemTrie) -> torch.Tensor:
        """
        The leaves of the trie that prompts (B, S) name, (B, S // L); -1 for padding.

        Raises:
            ValueError: for tokens that are no items of the catalogue, or histories longer than `max_history`.
        """
        levels, limit = self.config.num_levels, self.config.max_history
        size, rest = divmod(input_ids.shape[1] - 1, levels)
        if rest or size < 0:
            raise ValueError(f"Prompts of {input_ids.shape[1]} tokens: make them with the processor.")
        if size > limit:
            raise ValueError(f"Histories of {size} items: cut them to the newest max_history={limit}.")
        leaves = trie.walk(input_ids[:, :-1].reshape(-1, levels)).view(len(input_ids), size)
        is_padding = torch.zeros_like(leaves, dtype=torch.bool)
        if attention_mask is not None:
            is_padding = attention_mask[:, : size * levels : levels] == 0
        known = (leaves >= 0) | is_padding
        require(known, "A history holds codes of no item of the catalogue: make prompts with the processor.")
        return leaves.masked_fill(is_padding, -1)

    # ---- codes ----

    @returns_tuples
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        encoder_outputs: HistoryEncoding | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        soft_targets: SoftTargets | None = None,
        target_places: torch.LongTensor | None = None,
        **kwargs,
    ) -> CodeTreeOutput:
        r"""
        Args:
            input_ids, attention_mask: see [`encode`].
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                The answer token and the codes so far; by default the answer token alone.
            encoder_outputs ([`HistoryEncoding`], *optional*):
                Encoded histories, instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(B, L)` or `(B, 1 + S // L, L)`, *optional*):
                The codes of the item that follows the history; or of those that follow its first items, the newest ones
                last, as the rows are padded. -100 where nothing is learned.
            num_items_in_batch (*optional*):
                Target items in the whole optimisation step. The loss is then the sum over targets divided by it.
            soft_targets ([`SoftTargets`], *optional*): what the labelled codes are compared with, beside the labels.
            target_places (`torch.LongTensor` of shape `(n,)`, *optional*):
                Which of the items in `labels`, all rows one after the other, are targets; read from the labels if left
                out, which a GPU has to be waited for.

        Raises:
            ValueError: for no history, or labels that are no item.
        """
        tree = self.tree()
        if labels is not None:
            if input_ids is None:
                raise ValueError("Give histories as input_ids.")
            states = self.states(input_ids, attention_mask, tree)
            wanted: torch.Tensor = labels.unsqueeze(1) if labels.dim() == 2 else labels
            places = places_of(wanted[..., 0] != -100, target_places)
            total = len(places) if num_items_in_batch is None else num_items_in_batch
            states = states[:, -wanted.shape[1] :].flatten(0, 1)[places]
            losses = self._losses(tree, states, wanted.flatten(0, 1)[places], soft_targets)
            losses = {name: term / total for name, term in losses.items()}
            return CodeTreeOutput(loss=torch.stack(list(losses.values())).sum(), losses=losses)
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("Give histories as input_ids, or encoded ones as encoder_outputs.")
            encoder_outputs = self.encode(input_ids, attention_mask, tree)
        encoded: Any = encoder_outputs.last_hidden_state
        written: torch.Tensor | None = decoder_input_ids
        if written is None:
            written = torch.full((len(encoded), 1), self.config.decoder_start_token_id, device=encoded.device)
        logits = [self.code_logits(tree, encoded[:, 0], written[:, 1:end]) for end in range(1, written.shape[1] + 1)]
        return CodeTreeOutput(logits=torch.stack(logits, 1), encoder_last_hidden_state=encoded)

    def code_logits(self, tree: CodeTreeVectors, states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, vocab_size) of what follows the codes (B, l) behind histories of states (B, d)."""
        level = codes.shape[1]
        lowest = torch.finfo(torch.float32).min
        found = states.new_full((len(states), self.config.vocab_size), lowest, dtype=torch.float32)
        if level >= self.config.num_levels:
            return found
        read = self.heads[level](states, self.prefix_of(codes))
        log_probs, children = tree.log_probs(read, tree.trie.walk(codes), level)
        return spread(found, tree.trie.tokens[level][children].long(), log_probs)

    def _losses(self, tree: CodeTreeVectors, states: torch.Tensor, codes: torch.Tensor, soft_targets):
        """By name, the sums over targets of the states (n, d) and codes (n, L) of each code's loss."""
        nodes, found = torch.zeros(len(codes), dtype=torch.long, device=codes.device), {}
        for level in range(self.config.num_levels):
            read = self.heads[level](states, self.prefix_of(codes[:, :level]))
            log_probs, children = tree.log_probs(read, nodes, level)
            first, nodes = children[:, 0], tree.trie.step(nodes, codes[:, level], level)
            require(nodes >= 0, "labels hold codes of no item of the catalogue: make them with the processor.")
            targets: SoftTargets | None = None
            if soft_targets is not None:
                width = log_probs.shape[1]
                weights = soft_targets["log_weights"][level :: self.config.num_levels, :width]
                targets = {**soft_targets, "log_weights": weights}
                targets["tokens"] = torch.arange(width, device=codes.device).expand_as(log_probs)
                targets.pop("legal", None)  # they all are
            found[f"code_{level + 1}"] = code_loss(log_probs, nodes - first, soft_targets=targets)
        return found

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, encoder_outputs=None, **kwargs):
        """The codes so far: they are few, so that nothing is kept of them."""
        return {"decoder_input_ids": input_ids, "encoder_outputs": encoder_outputs, "attention_mask": attention_mask}

    # ---- lists ----

    def recommend_rows(  # type: ignore[override]
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        user_cache: WholeHistoryCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By beam search over the trie. A score is the sum of the L log-probabilities, each over what the whole catalogue
        goes on with: the scores of all items are those of a distribution, whatever the candidates.

        Args:
            num_beams (*optional*): defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            user_cache (*optional*): see [`Seq2SeqRecommenderMixin.recommend_rows`]; a vector a history.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        return super().recommend_rows(
            histories, k, exclude_seen, candidates, num_beams, batch_size, user_cache=user_cache
        )

    def encode_histories(self, **inputs: torch.Tensor) -> HistoryEncoding:
        return self.encode(**inputs)  # type: ignore[arg-type]

    @torch.no_grad()
    def _score_leaves(self, inputs: dict[str, torch.Tensor], token_ids: torch.Tensor, chunk_size: int = 512):
        """By teacher forcing: histories are encoded once."""
        tree, token_ids = self.tree(), token_ids.to(self.device)
        states: Any = self.encode(**inputs, tree=tree).last_hidden_state  # (B, 1, d)
        scores = []
        for of_user in states:
            parts = []
            for codes in token_ids.split(chunk_size):
                nodes, score = torch.zeros_like(codes[:, 0]), torch.zeros(len(codes), device=self.device)
                for level in range(self.config.num_levels):
                    read = self.heads[level](of_user.expand(len(codes), -1), self.prefix_of(codes[:, :level]))
                    log_probs, children = tree.log_probs(read, nodes, level)
                    nodes = tree.trie.step(nodes, codes[:, level], level)
                    score = score + log_probs.gather(1, (nodes - children[:, 0]).unsqueeze(1)).squeeze(1)
                parts.append(score)
            scores.append(torch.cat(parts))
        return torch.stack(scores)

    def add_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None):
        """
        New items, with codes from the item tokenizer, enter the catalogue's end. Until the model is trained again their
        vectors are those of their codes.

        Returns:
            the model.

        Raises:
            ValueError: for an id that is there already, lengths that differ, or a code outside its codebook. Nothing is
                changed then.
        """
        self._require_processor().add_items(item_ids, codes, titles)
        return self

    def remove_items(self, item_ids: Sequence[str]):
        """
        These items leave the catalogue, and their vectors the model; the rows of those behind them move up.

        Returns:
            the model.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        processor, own = self._require_processor(), self.item_embeddings
        gone: np.ndarray = processor.rows(item_ids, where="item_ids")
        processor.remove_items(item_ids)
        weight = without_rows(own.weight, gone[gone < len(own.weight)])
        self.item_embeddings = nn.Embedding.from_pretrained(weight.detach().clone(), freeze=False)
        self.config.num_items = len(weight)
        return self


CodeTreeForConditionalGeneration.register_for_auto_class("AutoModel")
CodeTreeForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["CodeTreeConfig", "CodeTreeForConditionalGeneration"]
