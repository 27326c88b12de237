"""Batches of CARE, with what their shapes follow from: see [`RowSizes`]."""

from collections.abc import Sequence

from hf_genrec.data.collator import NextItemCollator, PackedCollator
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.care.care_layout import RowSizes


class CareCollator(NextItemCollator):
    """
    `NextItemCollator`, with `row_sizes`.

    Args:
        num_queries: before each of the L codes.
    """

    def __init__(self, processor: GenRecProcessor, num_queries: list[int]):
        super().__init__(processor)
        self.num_queries = num_queries

    def __call__(self, examples: Sequence[dict]) -> dict:
        batch = super().__call__(examples)
        return {**batch, "row_sizes": RowSizes(batch["input_ids"].shape[1] + sum(self.num_queries))}


class CarePackedCollator(PackedCollator):
    """`PackedCollator`, with `row_sizes`; `num_queries` as in [`CareCollator`]."""

    def __init__(self, processor: GenRecProcessor, num_queries: list[int]):
        super().__init__(processor)
        self.num_queries = num_queries

    def __call__(self, examples: Sequence[dict]) -> dict:
        batch = super().__call__(examples)
        targets = [sum(len(items) - first for items, first in example["segments"]) for example in examples]
        sizes = RowSizes(
            slots=batch["input_ids"].shape[1] + max(targets) * sum(self.num_queries),
            history=int((batch["block_ids"] == 0).sum(1).max()),
            blocks=max(targets),
            kept=int(batch["logits_to_keep"].sum(1).max()),
        )
        return {**batch, "row_sizes": sizes}
