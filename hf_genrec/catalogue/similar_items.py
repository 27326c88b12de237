"""Which items of the catalogue a model holds to be alike, for every method."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .best_columns import MAX_SCORES, best_columns
from .evaluation_mode import evaluation_mode
from .request_checks import checked_count
from .sound_scores import refuse_model, require_sound_weights


class SimilarItems:
    """A model with a processor and [`similarity_vectors`] compares items by the cosine of these."""

    _require_processor: Any

    def similarity_vectors(self) -> torch.Tensor:
        """(N, d), a vector per item in catalogue order."""
        raise NotImplementedError

    @torch.no_grad()
    def similar_items(
        self, item_ids: str | Sequence[str], k: int = 10, candidates: Sequence[str] | None = None
    ) -> tuple[list, list]:
        """
        The k items that the model holds to be most like an item: the largest cosines of [`similarity_vectors`].

        The vectors are those that items are scored by. Of a model that reads codes, the similarity is the mean of the
        cosines of the codes' embeddings, level by level; of ordered codes each counts half of the one before it. So
        items with the same codes have a similarity of 1, and a new item is compared as soon as it is in the catalogue.
        An item that is in no training interaction has no vector that was learned, unless it is made of codes or text.

        Args:
            item_ids: an item, or a list of them.
            k: items per item.
            candidates (*optional*): only these items are found; a set may be given, too.

        Returns:
            `(item_ids, scores)`, most similar first, without the item itself; lists of lists for a list. Scores are
            from -1 to 1, equal ones in catalogue order. Fewer than k items only where fewer are allowed.

        Raises:
            ValueError: for an item that is unknown or no string, no candidate, a k below 1, a model whose weights are
            NaN, or one without a processor.
        """
        processor, k = self._require_processor(), checked_count("k", k)
        single = isinstance(item_ids, str)
        rows = processor.rows([item_ids] if single else item_ids, where="item_ids")
        columns = np.arange(len(processor.item_ids))
        if candidates is not None:
            columns = np.unique(processor.rows(candidates, where="candidates"))
            if not len(columns):
                raise ValueError("candidates is empty: give at least 1 item to choose from.")
        k = min(k, len(columns))
        require_sound_weights(self)  # type: ignore[arg-type]
        with evaluation_mode(self):  # type: ignore[arg-type]
            vectors = self.similarity_vectors().float()
        lengths = vectors.norm(dim=-1)
        if not lengths.isfinite().all():
            refuse_model(self)
        lengths = lengths.clamp(min=torch.finfo(lengths.dtype).tiny)  # a vector of zeros is like none
        compared, compared_lengths = vectors, lengths
        if candidates is not None:
            allowed = torch.from_numpy(columns).to(vectors.device)
            compared, compared_lengths = vectors[allowed], lengths[allowed]
        found, scores = np.full((len(rows), k), -1), np.empty((len(rows), k), dtype=np.float32)
        size = max(1, MAX_SCORES // len(columns))
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            asked = torch.from_numpy(batch).to(vectors.device)
            cosines = vectors[asked] @ compared.T / lengths[asked].unsqueeze(-1) / compared_lengths
            cosines = cosines.clamp(-1, 1)
            itself = torch.from_numpy(batch[:, None] == columns).to(vectors.device)
            values, places = best_columns(cosines.masked_fill(itself, -torch.inf), k)
            scores[start : start + size] = values.cpu().numpy()
            found[start : start + size] = columns[places.cpu().numpy()]
        found[scores == -np.inf] = -1
        lists, score_lists = processor.as_lists(found, scores)
        return (lists[0], score_lists[0]) if single else (lists, score_lists)
