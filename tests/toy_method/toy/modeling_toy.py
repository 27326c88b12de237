"""The toy model."""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ...decoding.processing_sequences import GenRecProcessor
from ...decoding.recommend_by_scores import ItemRecommenderMixin
from .configuration_toy import ToyConfig


class ToyForNextItem(ItemRecommenderMixin):
    config_class = ToyConfig
    processor_class = GenRecProcessor

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.codes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def item_vectors(self):
        return self.codes(torch.from_numpy(self.processor.token_ids).to(self.device)).sum(1)

    def user_vectors(self, input_ids, attention_mask, item_vectors):
        weights = attention_mask.unsqueeze(-1).to(self.dtype)
        return (self.codes(input_ids) * weights).sum(1) / weights.sum(1)

    def forward(self, input_ids, attention_mask, labels=None, num_items_in_batch=None, **kwargs):
        vectors = self.item_vectors()
        logits = self.user_vectors(input_ids, attention_mask, vectors) @ vectors.T
        loss = None
        if labels is not None:
            total = len(labels) if num_items_in_batch is None else num_items_in_batch
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / total
        return SequenceClassifierOutput(loss=loss, logits=logits)


ToyForNextItem.register_for_auto_class("AutoModelForSequenceClassification")
