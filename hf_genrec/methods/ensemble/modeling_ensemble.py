"""Several trained recommenders as one: the sum of their scores, each multiplied with a weight."""

import inspect
import os
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ...catalogue.best_columns import best_columns
from ...catalogue.catalogue import ProcessorCarrier
from ...catalogue.catalogue_files import CATALOGUE_FILE
from ...catalogue.evaluation_mode import evaluation_mode
from ...catalogue.flat_code import HOME
from ...catalogue.flat_lists import different_items, rank_in_list
from ...catalogue.processing_rows import ItemProcessor
from ...catalogue.request_checks import checked_beams, checked_request, checked_row_histories, checked_rows
from ...catalogue.saved_files import hub_place, naming, read_json, saved_file
from ...catalogue.sound_scores import refuse_model, require_sound, require_sound_weights
from .configuration_ensemble import EnsembleConfig

FORWARDED = ("dtype", "device_map", "attn_implementation")  # of the arguments of `from_pretrained`, what members take


class Candidates(NamedTuple):
    """
    What some members offer for B histories: C different items each, in catalogue order.

    Attributes:
        rows: (B, C) int64, -1 behind the last one.
        scores: (M, B, C), of each of these members, whoever has offered the item.
        offered: (M, B, C) boolean, whether the member offers it.
    """

    rows: torch.Tensor
    scores: torch.Tensor
    offered: torch.Tensor

    def sum(self, weights: Sequence[float]) -> torch.Tensor:
        """(B, C) sums, -inf for what no member with a weight above 0 offers."""
        total, offered = torch.zeros_like(self.scores[0]), torch.zeros_like(self.offered[0])
        for weight, scores, of_member in zip(weights, self.scores, self.offered, strict=True):
            if weight:
                total, offered = total + weight * scores, offered | of_member
        return total.masked_fill(~offered, -torch.inf)


class EnsembleForNextItem(ProcessorCarrier):
    """
    An item's score is the sum over the members of weight times score. The score of a member that searches (it writes
    codes) is the item's log-probability; that of one that scores every item is the log-softmax over the catalogue.

    An item is in a list if any member offers it: one that searches offers what its beams find, one that scores every
    item its best ones. Each of these items is scored exactly by all members, so a list is sorted as [`score_items`]
    would sort its items. Where no member searches, all items are compared.

    Args:
        members (*optional*): models with processors, in the order of the configuration.

    Attributes:
        processor ([`ItemProcessor`], *optional*): the catalogue. The members have processors of their own.
    """

    config_class = EnsembleConfig
    processor_class = ItemProcessor
    base_model_prefix = ""

    def __init__(self, config: EnsembleConfig, members: Sequence[ProcessorCarrier] = ()):
        super().__init__(config)
        # The only weights that are saved as this model's own; the configuration says them to people.
        self.weights = nn.Parameter(torch.tensor(config.weights), requires_grad=False)
        self.members = nn.ModuleList(members)
        self.post_init()

    def set_weights(self, weights: Sequence[float]) -> None:
        """
        Raises:
            ValueError: unless there is a number from 0 for each member, and one above 0.
        """
        self.config.weights = [float(weight) for weight in weights]
        self.config._check()
        self.weights.data.copy_(torch.tensor(self.config.weights))

    # ---- scores ----

    @property
    def searches(self) -> list[bool]:
        """Of each member, whether it finds its items by a search, whose beams an argument names."""
        return ["num_beams" in inspect.signature(member.recommend_rows).parameters for member in self.members]

    def candidates(
        self,
        histories: Sequence[np.ndarray],
        members: Sequence[int],
        count: int,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        user_cache=None,
        all_items: bool = False,
    ) -> Candidates:
        """
        What members offer, with the scores that all of them give to it.

        Args:
            members: places of members.
            count: items that each offers.
            exclude_seen, candidates: as in [`recommend_rows`].
            user_cache (*optional*): for the member that keeps encoded histories.
            all_items: each offers all items that are allowed; none of them searches.
        """
        num_items = len(self._require_processor().item_ids)
        shape = (len(members), len(histories), num_items)
        scores = torch.full(shape, -torch.inf, device=self.device)
        offered = torch.zeros(shape, dtype=torch.bool, device=self.device)
        allowed = self._allowed(histories, exclude_seen, candidates)
        for place, number in enumerate(members):
            member: Any = self.members[number]
            if self.searches[number]:
                cache = {"user_cache": user_cache} if user_cache is not None and number == self._keeping() else {}
                found = member.recommend_rows(histories, count, exclude_seen, candidates, num_beams=count, **cache)
                rows, values = (torch.from_numpy(array).to(self.device) for array in found)
                line, column = (rows >= 0).nonzero(as_tuple=True)
                scores[place, line, rows[line, column]] = values[line, column]
                offered[place, line, rows[line, column]] = True
            else:
                scores[place] = self._log_softmax(member, histories)
                if all_items:
                    offered[place] = allowed
                else:
                    best, columns = best_columns(scores[place].masked_fill(~allowed, -torch.inf), count)
                    offered[place].scatter_(1, columns, best > -torch.inf)
        line, row = offered.any(0).nonzero(as_tuple=True)
        counts = torch.bincount(line, minlength=len(histories))
        width = max([1, *counts.tolist()])
        rows = torch.full((len(histories), width), -1, device=self.device)
        rows[line, rank_in_list(line, counts)] = row
        columns = rows.clamp(min=0).expand(len(members), -1, -1)
        scores, offered = scores.gather(2, columns), offered.gather(2, columns) & (rows >= 0)
        for place, number in enumerate(members):
            lacking = (rows >= 0) & ~offered[place]
            if self.searches[number] and lacking.any():
                wanted = torch.where(lacking, rows, -1).cpu().numpy()
                exact = self.members[number].score_row_lists(histories, wanted)  # type: ignore[operator]
                scores[place] = torch.where(lacking, exact, scores[place])
        return Candidates(rows, scores, offered)

    def _log_softmax(self, member: Any, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, N), of a member that scores every item."""
        rows = np.arange(len(self._require_processor().item_ids))
        return member.score_rows(histories, rows).float().log_softmax(-1)

    def _allowed(self, histories, exclude_seen: bool, candidates: np.ndarray | None) -> torch.Tensor:
        """(B, N), the items that lists may hold."""
        num_items = len(self._require_processor().item_ids)
        allowed = torch.zeros(len(histories), num_items, dtype=torch.bool, device=self.device)
        allowed[:, slice(None) if candidates is None else torch.from_numpy(candidates).to(self.device)] = True
        if exclude_seen:
            lines, rows = (torch.from_numpy(array).to(self.device) for array in different_items(histories))
            allowed[lines, rows] = False
        return allowed

    @torch.no_grad()
    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        user_cache=None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By the sums of the members' scores, equal ones in catalogue order. Scores do not depend on k, on what is
        excluded or on the candidates.

        Args:
            num_beams (*optional*): beams of the members that search, and items that each member offers; by default the
                configuration's `num_candidates`, or k if that is more.
            batch_size: histories at a time.
            user_cache (*optional*): what [`user_cache`] makes: encoded histories of one member.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, beams or a user cache that no
                member has a use for, or scores that are NaN.
        """
        num_items = len(self._require_processor().item_ids)
        request = checked_request(num_items, histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        asked = [place for place, weight in enumerate(self.config.weights) if weight]
        searching = [place for place in asked if self.searches[place]]
        if num_beams is not None and not searching:
            raise ValueError("num_beams: this model scores every item and searches no beams: leave it out.")
        if user_cache is not None and self._keeping() is None:
            raise ValueError("user_cache: no member of this model keeps encoded histories: leave it out.")
        usual = max(self.config.num_candidates, request.count)
        offers = checked_beams(request.count, usual if num_beams is None else num_beams)
        if asked == searching and len(asked) == 1 and self.config.weights[asked[0]] == 1:
            cache = {} if user_cache is None else {"user_cache": user_cache}
            alone: Any = self.members[asked[0]]
            return alone.recommend_rows(
                request.histories, k, exclude_seen, candidates, num_beams=offers, batch_size=batch_size, **cache
            )
        weights = [self.config.weights[place] for place in asked]
        # Histories of about one length stand together: little of a batch is padding.
        by_length = np.argsort([len(history) for history in request.histories], kind="stable")
        with evaluation_mode(self):
            for start in range(0, len(by_length), request.batch_size):
                batch = by_length[start : start + request.batch_size]
                of_batch = [request.histories[int(line)] for line in batch]
                found = self.candidates(
                    of_batch, asked, offers, exclude_seen, request.candidates, user_cache, not searching
                )
                best, columns = best_columns(require_sound(self, found.sum(weights)), request.count)
                rows = found.rows.gather(1, columns).masked_fill(best == -torch.inf, -1)
                here = slice(rows.shape[1])
                request.rows[batch, here], request.scores[batch, here] = rows.cpu().numpy(), best.cpu().numpy()
        return request.rows, request.scores

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray) -> torch.Tensor:
        """The sums of the members' scores: by teacher forcing, and of the log-softmax over all items."""
        num_items = len(self._require_processor().item_ids)
        histories, rows = checked_row_histories(histories, num_items), checked_rows(rows, num_items, "rows")
        total = torch.zeros(len(histories), len(rows), device=self.device)
        if not len(histories) or not len(rows):
            return total
        for member, searches, weight in zip(self.members, self.searches, self.config.weights, strict=True):
            if weight and searches:
                total = total + weight * member.score_rows(histories, rows)  # type: ignore[operator]
            elif weight:
                total = total + weight * self._log_softmax(member, histories)[:, torch.from_numpy(rows)]
        if total.isnan().any():
            refuse_model(self)
        return total

    def forward(self, input_ids, attention_mask=None, **kwargs) -> SequenceClassifierOutput:
        """
        Args:
            input_ids, attention_mask: (B, T) int64, as the processor makes them: catalogue rows, padded.

        Returns:
            logits (B, N): the scores of all items.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        histories = [ids[kept.bool()].cpu().numpy() for ids, kept in zip(input_ids, mask, strict=True)]
        return SequenceClassifierOutput(logits=self.score_rows(histories, np.arange(self.config.num_items)))

    def _keeping(self) -> int | None:
        """The first member in use that can keep encoded histories."""
        weighted = enumerate(zip(self.members, self.config.weights, strict=True))
        return next((place for place, (member, weight) in weighted if weight and hasattr(member, "user_cache")), None)

    def user_cache(self, max_bytes: int = 2**30):
        """An empty store of encoded histories of the first member that can keep them, `None` where none can."""
        place = self._keeping()
        return None if place is None else self.members[place].user_cache(max_bytes)  # type: ignore[operator]

    def similarity_vectors(self) -> torch.Tensor:
        """The members' vectors side by side, so that a cosine is the mean of the members' ones by their weights."""
        parts = []
        for member, weight in zip(self.members, self.config.weights, strict=True):
            if weight:
                vectors = member.similarity_vectors().float()  # type: ignore[operator]
                parts.append(weight**0.5 * nn.functional.normalize(vectors, dim=-1))
        return torch.cat(parts, dim=-1)

    # ---- files ----

    def save_pretrained(self, save_directory, is_main_process: bool = True, **kwargs):
        """Each member in a folder of its own, as it saves itself, and their code beside this model's."""
        kwargs["state_dict"] = {"weights": self.weights.detach().to(self.members[0].dtype)}
        if is_main_process:
            for name, member in zip(self.config.members, self.members, strict=True):
                folder = Path(save_directory) / name
                os.makedirs(folder, exist_ok=True)
                member.save_pretrained(folder)  # type: ignore[operator]
                # The Auto classes read its configuration there and its code here.
                for code in sorted(folder.glob("*.py")):
                    above = folder.parent / code.name
                    shutil.copy(code, above)
        return super().save_pretrained(save_directory, is_main_process, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        The model, its members and their processors.

        Raises:
            OSError: if a file is missing.
            ValueError: if one is damaged, or the files do not fit each other. It names the file.
        """
        wants_info, folder, place = kwargs.get("output_loading_info"), pretrained_model_name_or_path, hub_place(kwargs)
        settings = {name: kwargs[name] for name in FORWARDED if name in kwargs}
        loaded: Any = super().from_pretrained(folder, *args, **kwargs)
        model = loaded[0] if wants_info else loaded
        config_path = saved_file(folder, "config.json", **place)
        with naming(config_path):
            if not torch.allclose(model.weights.float().cpu(), torch.tensor(model.config.weights), rtol=1e-2, atol=0):
                raise ValueError(f"weights are {model.config.weights}, and model.safetensors says {model.weights}")
        for name, kind in zip(model.config.members, model.config.member_types, strict=True):
            member = _open_member(
                folder, kind, place | {"subfolder": os.path.join(place.get("subfolder", ""), name)}, settings
            )
            with naming(config_path):
                if model.processor is not None and member.processor.item_ids != model.processor.item_ids:
                    raise ValueError(f"{name} is of another catalogue")
            model.members.append(member)
        return loaded


def _open_member(folder: Any, kind: str, place: dict[str, Any], settings: dict[str, Any]) -> Any:
    """
    A member by the class that its configuration names: at home the library's own, elsewhere that of the code beside
    this file, which whoever opened this model has trusted.
    """
    path = saved_file(folder, "config.json", **place)
    saved_file(folder, CATALOGUE_FILE, **place)  # or it would be opened without a processor
    content = read_json(path)
    with naming(path):
        if content.get("model_type") != kind:
            raise ValueError(f"it is of a model of type {content.get('model_type')!r}, and {kind!r} is expected")
        auto, reference = next((n, r) for n, r in content["auto_map"].items() if n.startswith("AutoModelFor"))
        auto_class: Any = getattr(transformers, auto)
        if not __name__.startswith(f"{HOME}."):
            return auto_class.from_pretrained(folder, trust_remote_code=True, **place, **settings)
        module = import_module(f"..{kind}.modeling_{kind}", __package__)
        member_class = getattr(module, str(reference).split(".")[-1], None)
        if not (isinstance(member_class, type) and issubclass(member_class, ProcessorCarrier)):
            raise ValueError(f"{reference} is no model of {module.__name__}")
    return member_class.from_pretrained(folder, trust_remote_code=False, **place, **settings)


EnsembleForNextItem.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["EnsembleForNextItem"]
