"""`recommend` and `score_items` for models that score every item with one product: user vector times item vector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..catalogue.best_columns import MAX_SCORES, best_columns
from ..catalogue.catalogue import ProcessorCarrier
from ..catalogue.evaluation_mode import evaluation_mode
from ..catalogue.flat_lists import different_items
from ..catalogue.processing_rows import ItemProcessor
from ..catalogue.request_checks import checked_request, checked_row_histories, checked_rows
from ..catalogue.sound_scores import refuse_model, require_sound_weights


class ItemRecommenderMixin(ProcessorCarrier):
    """
    Placed before a model class, which defines [`item_vectors`] and [`user_vectors`]; an item's score is their product.

    Attributes:
        processor ([`ItemProcessor`], *optional*): histories and catalogue. Loaded and saved together with the model.
        item_index (*optional*): finds the items of each list in the place of a comparison with all of them, where no
            candidates are given. Its `search(users, k)` takes vectors (B, d) float32 and gives rows (B, k), -1 where it
            found fewer; it knows the first `num_items` items, later ones are compared one by one. Scores are exact; a
            list that it cannot fill is made from all items. Not saved with the model.
    """

    processor_class = ItemProcessor
    item_index: Any = None

    def item_vectors(self) -> torch.Tensor:
        """(N or more, d), the items first, in catalogue order."""
        raise NotImplementedError

    def user_vectors(self, input_ids, attention_mask, item_vectors: torch.Tensor) -> torch.Tensor:
        """(B, d) of the inputs of [`ItemProcessor.prompts`]."""
        raise NotImplementedError

    def similarity_vectors(self) -> torch.Tensor:
        """The vectors that items are scored by."""
        return self.item_vectors()[: len(self._require_processor().item_ids)]

    @torch.no_grad()
    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        batch_size: int = 256,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By the scores of all items; equal ones in catalogue order.

        Args:
            batch_size: histories encoded at a time.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are no numbers.
        """
        num_items = len(self._require_processor().item_ids)
        request = checked_request(num_items, histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        columns, count = request.candidates, request.count  # (C,)
        with evaluation_mode(self):
            vectors = self.item_vectors()
            if columns is None:
                columns, scored = np.arange(num_items), vectors[:num_items]
            else:
                scored = vectors[torch.from_numpy(columns).to(self.device)]
            # Histories of about one length stand together: little of a batch is padding.
            by_length = np.argsort([len(history) for history in request.histories], kind="stable")
            for start in range(0, len(by_length), request.batch_size):
                batch = by_length[start : start + request.batch_size]
                of_batch = [request.histories[int(line)] for line in batch]
                users = self._encode(of_batch, vectors)
                seen, allowed = None, torch.full((len(batch),), len(columns), device=self.device)
                if exclude_seen:
                    seen = self._seen(of_batch, columns)
                    allowed -= torch.bincount(seen[0], minlength=len(batch))
                if candidates is None and self.item_index is not None:
                    found, values = self._best_of_index(users, scored, count, seen, allowed)
                else:
                    found, values = self._best(users, scored, count, seen)
                known = torch.isfinite(values)
                if (known.sum(1) < allowed.clamp(max=count)).any():
                    refuse_model(self)  # what was not seen has a score that is no number
                best = np.where(known.cpu().numpy(), columns[found.cpu().numpy()], -1)
                request.rows[batch, :count], request.scores[batch, :count] = best, values.cpu().numpy()
        return request.rows, request.scores

    def _encode(self, histories: Sequence[np.ndarray], item_vectors: torch.Tensor) -> torch.Tensor:
        inputs = self._require_processor().prompts(histories)
        return self.user_vectors(
            **{name: tensor.to(self.device) for name, tensor in inputs.items()}, item_vectors=item_vectors
        )

    def _seen(self, histories: Sequence[np.ndarray], columns: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Users and places in `columns` (C,) of a history's different items, as far as they are among them."""
        users, items = different_items(histories)
        places = np.searchsorted(columns, items).clip(max=len(columns) - 1)
        among = columns[places] == items
        return torch.from_numpy(users[among]).to(self.device), torch.from_numpy(places[among]).to(self.device)

    @staticmethod
    def _best(users: torch.Tensor, items: torch.Tensor, k: int, seen=None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The best k of the items (C, d) for each user (B, d), a chunk of items at a time.

        Returns:
            places among the items and float32 scores, (B, min(k, C)) each; -inf for items that were seen.
        """
        size = max(k, MAX_SCORES // max(len(users), 1))
        best = torch.empty(len(users), 0, dtype=torch.int64, device=users.device)
        values = torch.empty(len(users), 0, device=users.device)
        for start in range(0, len(items), size):
            part = items[start : start + size]
            # Rows of scores that begin at multiples of 64 bytes are written twice as fast.
            scores = users.new_empty(len(users), -(-len(part) // 16) * 16)[:, : len(part)]
            scores = torch.mm(users, part.T, out=scores).float()
            if seen is not None:
                user, place = seen
                here = (place >= start) & (place < start + size)
                scores[user[here], place[here] - start] = -torch.inf
            chunk_values, chunk = best_columns(scores, k)
            # Earlier chunks hold lower rows and stand first: a stable sort keeps the order of ties.
            merged = torch.cat([values, chunk_values], 1)
            values, order = merged.sort(dim=-1, descending=True, stable=True)
            best = torch.cat([best, chunk + start], 1).gather(1, order)[:, :k]
            values = values[:, :k]
        return best, values

    def _best_of_index(self, users: torch.Tensor, items: torch.Tensor, k: int, seen, allowed: torch.Tensor):
        """[`_best`] of the items that the index finds; `allowed` (B,) is how many there are for each user."""
        most_seen = 0 if seen is None else int(torch.bincount(seen[0], minlength=1).max())
        rows = torch.from_numpy(self.item_index.search(users.float().cpu().numpy(), min(k + most_seen, len(items))))
        new = torch.arange(self.item_index.num_items, len(items)).expand(len(users), -1)
        rows = torch.cat([rows, new], 1).to(users.device).sort(1).values  # ties go to the lower row
        scores = (items[rows.clamp(min=0)] @ users.unsqueeze(-1)).squeeze(-1).float()
        scores = scores.masked_fill(rows < 0, -torch.inf)
        if seen is not None:
            user, place = seen
            own = rows[user] == place.unsqueeze(1)
            line, column = own.nonzero(as_tuple=True)
            scores[user[line], column] = -torch.inf
        values, order = scores.sort(dim=-1, descending=True, stable=True)
        found, values = rows.gather(1, order)[:, :k], values[:, :k]
        short = (torch.isfinite(values).sum(1) < allowed.clamp(max=k)).nonzero().squeeze(1)
        if not len(short) and values.shape[1] == k:
            return found, values
        found, values = (nn.functional.pad(part, (0, k - part.shape[1])) for part in (found, values))
        if seen is not None:
            line = torch.full((len(users),), -1, device=users.device)
            line[short] = torch.arange(len(short), device=users.device)
            among = line[seen[0]] >= 0
            seen = line[seen[0][among]], seen[1][among]
        found[short], values[short] = self._best(users[short], items, k, seen)
        return found, values

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray) -> torch.Tensor:
        """The products of user and item vectors."""
        num_items = len(self._require_processor().item_ids)
        histories, rows = checked_row_histories(histories, num_items), checked_rows(rows, num_items, "rows")
        if not len(histories):
            return torch.empty(0, len(rows), device=self.device)
        vectors = self.item_vectors()
        users = self._encode(histories, vectors)
        scores = (users @ vectors[torch.from_numpy(rows).to(self.device)].T).float()
        if not scores.isfinite().all():
            refuse_model(self)
        return scores
