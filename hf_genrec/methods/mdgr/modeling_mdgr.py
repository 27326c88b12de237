"""MDGR (arXiv 2601.19501): reads histories of code sets and fills in the next item's codes, the surest ones first.

The paper has no published code; the layers are those of DiffGRM (arXiv 2510.21805), its nearest published relative.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ...catalogue.flat_code import FlatModelCode
from ...catalogue.transformers_bridge import returns_tuples
from ...decoding.code_loss import at_least_float32
from ...decoding.code_set_encoding import CodeSetEncoding
from ...decoding.shared_batch import rows_of_all
from .configuration_mdgr import MdgrConfig
from .mdgr_layers import MdgrDecoder, MdgrEncoder, Memory
from .recommending_mdgr import MdgrRecommenderMixin


class MdgrPreTrainedModel(FlatModelCode, PreTrainedModel):
    """What the two models share."""

    config_class = MdgrConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["MdgrEncoderLayer", "MdgrDecoderLayer"]  # noqa: RUF012

    def get_encoder(self, modality=None) -> MdgrEncoder:
        base: Any = self.base_model
        return base.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.get_encoder().embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):  # type: ignore[override]
        self.get_encoder().embed_tokens = value


@dataclass
class MdgrModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state: (R, L, d), a state per slot.
        encoder_last_hidden_state: (B, T, d).
    """

    last_hidden_state: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None


class MdgrModel(MdgrPreTrainedModel):
    """Encoder and decoder without the head."""

    def __init__(self, config: MdgrConfig):
        super().__init__(config)
        self.encoder = MdgrEncoder(config)
        self.decoder = MdgrDecoder(config)
        self.post_init()

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: CodeSetEncoding | None = None,
        memory: Memory | None = None,
        **kwargs,
    ) -> MdgrModelOutput:
        r"""
        Args:
            input_ids, attention_mask: see [`MdgrEncoder.forward`].
            decoder_input_ids (`torch.LongTensor` of shape `(R, L)`, *optional*):
                A code of each codebook, or the mask token in its place. R is B or a multiple of it: the rows of one
                history stand one after the other. By default everything is masked.
            encoder_outputs ([`CodeSetEncoding`], *optional*):
                Encoded histories, instead of `input_ids`.
            memory (*optional*):
                Their keys and values in every layer ([`MdgrDecoder.memory`]), if they are made already.

        Raises:
            ValueError: for no history, another number of slots than of codebooks, or rows that are no multiple of the
            histories.
        """
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("Give histories as input_ids, or encoded ones as encoder_outputs.")
            encoder_outputs = self.encoder(input_ids, attention_mask)
        num_histories, num_slots = len(encoder_outputs.last_hidden_state), self.config.num_codebooks
        mask: Any = self.config.mask_token_id
        if decoder_input_ids is None:
            decoder_input_ids = torch.full((num_histories, num_slots), mask, device=self.device)
        if len(decoder_input_ids) % num_histories or decoder_input_ids.shape[1] != num_slots:
            raise ValueError(
                f"decoder_input_ids have shape {tuple(decoder_input_ids.shape)} for {num_histories} histories: give "
                f"as many rows of {num_slots} codes to each."
            )
        masked = decoder_input_ids == mask
        codes = self.encoder.embed_tokens(decoder_input_ids)
        states = self.decoder(codes, masked, encoder_outputs, memory)
        return MdgrModelOutput(
            last_hidden_state=self.encoder.norm(states),
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )


@dataclass
class MdgrOutput(ModelOutput):
    """
    Args:
        loss: see [`MdgrForMaskedLM.forward`].
        logits: (R, codes), by token id: a code's logit at the slot of its codebook. A softmax within each codebook.
        encoder_last_hidden_state: (B, T, d).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None


class MdgrForMaskedLM(MdgrRecommenderMixin, MdgrPreTrainedModel):
    """
    MDGR with a head per codebook, the codes' own embeddings. `recommend` returns items.

    Example:

    ```python
    >>> model = AutoModelForMaskedLM.from_pretrained("runs/mdgr-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    def __init__(self, config: MdgrConfig):
        super().__init__(config)
        self.model = MdgrModel(config)
        self.post_init()

    def slot_logits(self, states: torch.Tensor) -> torch.Tensor:
        """
        Dot products of each slot's state with its codebook's embeddings.

        Args:
            states: (..., L, d), of the decoder.

        Returns:
            (..., codes), by token id.
        """
        # Looked up, not read: the weights may lie elsewhere until their module is called (ZeRO-3).
        table = self.get_input_embeddings()(torch.arange(self.config.num_codes, device=states.device))
        of_codebooks = zip(states.unbind(-2), table.split(list(self.config.codebook_sizes)), strict=True)
        return torch.cat([slot @ embeddings.T for slot, embeddings in of_codebooks], -1)

    def code_log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """The log-softmax within each codebook of logits (..., codes), in float32 or wider."""
        of_codebooks = logits.split(list(self.config.codebook_sizes), -1)
        return torch.cat([at_least_float32(part).log_softmax(-1) for part in of_codebooks], -1)

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
        encoder_outputs: CodeSetEncoding | None = None,
        memory: Memory | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> MdgrOutput:
        r"""
        Args:
            input_ids, attention_mask, decoder_input_ids, encoder_outputs, memory: see [`MdgrModel.forward`].
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                The target's token ids, column r of codebook r. They are also what the decoder reads, but for what is
                masked.
            masked (`torch.BoolTensor` of shape `(B, V, L)`, *optional*):
                V views of each target: the slots that are hidden and to be told. By default one view, all of it hidden.
            num_items_in_batch (*optional*):
                Targets in the whole optimisation step.

        Returns:
            [`MdgrOutput`]. The loss is the label-smoothed cross-entropy, summed over the masked slots of all views and
            divided by their number: by that of a target on average, over the batch of all processes, times the number
            of targets.

        Raises:
            ValueError: for labels together with `decoder_input_ids`, which follow from them.
        """
        if labels is not None:
            if decoder_input_ids is not None:
                raise ValueError("The decoder reads the labels that are not masked: leave decoder_input_ids out.")
            if masked is None:
                masked = torch.ones_like(labels, dtype=torch.bool)[:, None]
            decoder_input_ids = labels[:, None].masked_fill(masked, self.config.mask_token_id).flatten(0, 1)
        outputs = self.model(input_ids, attention_mask, decoder_input_ids, encoder_outputs, memory)
        logits = self.slot_logits(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            assert masked is not None
            losses = self._slot_losses(logits, labels, masked.shape[1]).view(masked.shape)
            counts = masked.sum((1, 2))
            of_target = (rows_of_all(counts) if self.training else counts).to(losses.dtype).mean()
            total = len(labels) if num_items_in_batch is None else num_items_in_batch
            loss = losses.masked_fill(~masked, 0.0).sum() / (of_target * total)
        return MdgrOutput(loss, logits, outputs.encoder_last_hidden_state)

    def _slot_losses(self, logits: torch.Tensor, labels: torch.Tensor, num_views: int) -> torch.Tensor:
        """Label-smoothed cross-entropies (R, L) of logits (R, codes), R views of the targets (B, L)."""
        start, losses = 0, []
        of_codebooks = at_least_float32(logits).split(list(self.config.codebook_sizes), -1)
        for part, wanted in zip(of_codebooks, labels.repeat_interleave(num_views, 0).unbind(1), strict=True):
            smoothing = self.config.label_smoothing
            losses.append(
                nn.functional.cross_entropy(part, wanted - start, reduction="none", label_smoothing=smoothing)
            )
            start += part.shape[-1]
        return torch.stack(losses, 1)


MdgrModel.register_for_auto_class("AutoModel")
MdgrForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")

__all__ = ["MdgrConfig", "MdgrForMaskedLM", "MdgrModel"]
