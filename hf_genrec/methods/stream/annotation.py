"""Traces of the training targets: the codes that a frozen model lacks of each target, one after the other."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.decoding.code_t5 import CodeT5
from hf_genrec.decoding.seq2seq_beams import Seq2SeqBeamDecoder
from hf_genrec.methods.stream.thinking_space import item_directions, nearest_codes, residuals, thinking_states

BATCH = 256


class AnnotatingDecoder(Seq2SeqBeamDecoder):
    """
    A decoder that reads, behind the start token, the code nearest to each residual.

    Args:
        model: of this method or any other [`CodeT5`]; one without the two MLPs goes without them.
        codes: (B, L) of the targets.
        length: l.

    Attributes:
        trace: (B, l) the codes found.
        states: (B, l + 1, d), s_0 to s_l.
        targets: (B, d) directions of the targets.
    """

    trace: torch.Tensor
    states: torch.Tensor

    def __init__(self, model: CodeT5, codes: torch.Tensor, length: int):
        super().__init__(model, 1, 0)
        self.length = length
        self.table = model.get_input_embeddings().weight
        self.targets = item_directions(self.table, codes)

    def prompt_slots(self, num_tokens: int) -> int:
        return 1 + self.length

    def first(self, start: torch.Tensor) -> torch.Tensor:
        sizes = self.model.config.codebook_sizes
        state_map, residual_map = (getattr(self.model, name, None) for name in ("state_map", "residual_map"))
        depths = torch.arange(self.length + 1, device=start.device).split(1)
        hidden, tokens = self.append(start, depths[0]), []
        for place in range(self.length):
            last = thinking_states(hidden, state_map)[:, -1:]
            left = residuals(self.targets, last, residual_map)[:, 0]
            level = place % len(sizes)
            first = sum(sizes[:level])
            tokens.append(first + nearest_codes(left, self.table[first : first + sizes[level]]))
            state = self.append(self.table[tokens[-1]][:, None], depths[place + 1])
            hidden = torch.cat([hidden, state], 1)
        self.trace, self.states = torch.stack(tokens, 1), thinking_states(hidden, state_map)
        return hidden[:, -1:]


@torch.no_grad()
def residual_traces(
    model: Any, histories: Sequence[np.ndarray], targets: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        model: a trained [`CodeT5`] with its processor.
        histories: catalogue rows before each of T targets.
        targets: (T,) catalogue rows.
        length: l, at least 1.

    Returns:
        token ids (T, l), and (T,) whether the trace has brought the state no further from the target: cos(s_l, t) is
        not below cos(s_0, t).
    """
    processor = model.processor
    traces, useful = np.zeros((len(targets), length), dtype=np.int64), np.zeros(len(targets), dtype=bool)
    token_ids = torch.from_numpy(processor.token_ids)
    with evaluation_mode(model):
        for batch in _batches(histories):
            prompts = processor.prompts([histories[place] for place in batch])
            decoder = AnnotatingDecoder(model, token_ids[targets[batch]].to(model.device), length)
            decoder.start(**{name: part.to(model.device) for name, part in prompts.items()})
            near = (decoder.states[:, [0, -1]] * decoder.targets[:, None]).sum(-1)
            traces[batch] = decoder.trace.cpu().numpy()
            useful[batch] = (near[:, 1] >= near[:, 0]).cpu().numpy()
    return traces, useful


def hard_negatives(model: Any, histories: Sequence[np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Of each target's history the best item of the model's beam that is not the target, (T,) catalogue rows; and what the
    target's log-probability has more than its, (T,) float32.
    """
    rejected, margins = np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.float32)
    with evaluation_mode(model), torch.no_grad():
        for batch in _batches(histories):
            of_batch = [histories[place] for place in batch]
            found, _ = model.recommend_rows(of_batch, 2, batch_size=BATCH)
            right = targets[batch]
            rejected[batch] = np.where(found[:, 0] == right, found[:, 1], found[:, 0])
            scores = model.score_row_lists(of_batch, np.stack([right, rejected[batch]], axis=1))
            margins[batch] = (scores[:, 0] - scores[:, 1]).cpu().numpy()
    return rejected, margins


def random_traces(codebook_sizes: Sequence[int], count: int, length: int, seed: int) -> np.ndarray:
    """(count, length) token ids, of the same levels as those of other traces, drawn evenly."""
    rng, columns = np.random.default_rng(seed), []
    for place in range(length):
        level = place % len(codebook_sizes)
        columns.append(sum(codebook_sizes[:level]) + rng.integers(codebook_sizes[level], size=count))
    return np.stack(columns, axis=1)


def own_code_share(tokens: np.ndarray, codes: np.ndarray) -> float:
    """Of thinking tokens (T, l), the share that is the target's own code, (T, L), of the token's level."""
    levels = np.arange(tokens.shape[1]) % codes.shape[1]
    return float((tokens == codes[:, levels]).mean())


def similar_traces(vectors: np.ndarray, token_ids: np.ndarray, length: int) -> np.ndarray:
    """
    (N, length) token ids: the codes of the items whose vectors (N, D) have the largest cosines with each item's, the
    nearest first, ties in catalogue order.

    Raises:
        ValueError: if the length is that of no whole number of items, or of more than there are.
    """
    levels = token_ids.shape[1]
    count = length // levels
    if length % levels or not 0 < count < len(token_ids):
        raise ValueError(
            f"num_thinking_tokens {length}: similar items have {levels} codes each: give a multiple of that, for fewer "
            f"items than the {len(token_ids)} of the catalogue"
        )
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    traces = np.empty((len(unit), length), dtype=np.int64)
    for start in range(0, len(unit), BATCH):
        near = unit[start : start + BATCH] @ unit.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        rows = np.argsort(-near, axis=1, kind="stable")[:, :count]
        traces[start : start + BATCH] = token_ids[rows].reshape(len(rows), -1)
    return traces


def _batches(histories: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Places of histories of like lengths: little of a batch is padding."""
    by_length = np.argsort([len(history) for history in histories], kind="stable")
    return (by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH))
