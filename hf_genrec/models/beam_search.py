"""Beam search over a catalogue's trie and exact scoring, for every decoder with aligned logits."""

import copy

import torch
from transformers import DynamicCache

from .item_trie import ItemTrie


def _prefill(model, inputs) -> tuple[torch.Tensor, DynamicCache]:
    """Next-token log-probabilities (B, vocab_size) after each prompt, float32, and the prompts' keys and values."""
    outputs = model(**inputs, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)
    return outputs.logits[:, -1].float().log_softmax(-1), outputs.past_key_values


def _continue(model, inputs, rows: torch.Tensor, codes: torch.Tensor, num_new: int, cache) -> torch.Tensor:
    """
    Log-probabilities (n, num_new, vocab_size) after the last `num_new` of the codes (n, l), with the prompts `rows`
    (n,) before them. The cache holds the other tokens of these n rows and is extended.
    """
    context = torch.cat([inputs["input_ids"][rows], codes], dim=1)
    mask = torch.nn.functional.pad(inputs["attention_mask"][rows], (0, codes.shape[1]), value=1)
    outputs = model(
        input_ids=context[:, -num_new:], context_ids=context, attention_mask=mask, past_key_values=cache, use_cache=True
    )
    return outputs.logits.float().log_softmax(-1)


def _best_per_user(users: torch.Tensor, scores: torch.Tensor, num_users: int, num_beams: int):
    """
    The `num_beams` best of each user's candidates.

    Args:
        users, scores: (c,), a candidate's user (in rising order) and score.

    Returns:
        (num_users, w) index into the candidates, best first, ties to the earlier; -1 where a user has fewer. w <=
        num_beams.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[users[order].argsort(stable=True)]
    counts = torch.bincount(users, minlength=num_users)
    starts = counts.cumsum(0) - counts
    width = min(int(counts.max()), num_beams)
    place = torch.arange(width, device=users.device)
    chosen = order[(starts[:, None] + place).clamp(max=len(order) - 1)]
    return torch.where(place < counts[:, None], chosen, -1)


def _not_all_excluded(trie: ItemTrie, nodes, level: int, users, excluded: torch.Tensor | None) -> torch.Tensor | None:
    """
    Whether a user may still be given some item below each node, (n,) boolean; `None` if nothing is excluded.

    `excluded` holds the sorted keys `user * len(trie) + place in trie.items`.
    """
    if excluded is None:
        return None
    start, end = trie.items_below(nodes, level)
    seen = torch.searchsorted(excluded, users * len(trie) + end) - torch.searchsorted(
        excluded, users * len(trie) + start
    )
    return seen < end - start


@torch.no_grad()
def beam_search(
    model, inputs: dict[str, torch.Tensor], trie: ItemTrie, num_beams: int, excluded: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The best leaves of the trie for each prompt.

    Each prompt is encoded once. A beam's score is the sum of its codes' log-probabilities over the full vocabulary in
    float32; only legal codes are candidates. With at least as many beams as leaves the search is exhaustive.

    Args:
        model: decoder with aligned logits that takes `context_ids`.
        inputs: `input_ids` and `attention_mask` (B, S), left-padded prompts that end with the answer token.
        trie: the legal items.
        num_beams: prefixes kept per prompt and level.
        excluded (*optional*): sorted keys of items a user must not get, see `_not_all_excluded`.

    Returns:
        leaves (B, w) and scores (B, w), best first, ties in the trie's order; where fewer leaves are legal, -1 and
        -inf.
    """
    num_users = len(inputs["input_ids"])
    device = inputs["input_ids"].device
    trie = trie.to(device)

    log_probs, cache = _prefill(model, inputs)
    rows = torch.arange(num_users, device=device)  # (n,) user of each beam; beams of a user stand together
    nodes = torch.zeros(num_users, dtype=torch.long, device=device)
    scores = torch.zeros(num_users, device=device)
    codes = torch.empty(num_users, 0, dtype=torch.long, device=device)
    for level in range(trie.num_levels):
        beam, token, child = trie.allowed(nodes, level)
        allowed = _not_all_excluded(trie, child, level + 1, rows[beam], excluded)
        if allowed is not None:
            beam, token, child = beam[allowed], token[allowed], child[allowed]
        if not len(beam):
            break
        candidate_scores = scores[beam] + log_probs[beam, token]
        chosen = _best_per_user(rows[beam], candidate_scores, num_users, num_beams)
        width = chosen.shape[1]
        dead = chosen.flatten() < 0
        chosen = chosen.flatten().clamp(min=0)
        parent = beam[chosen]
        rows = torch.arange(num_users, device=device).repeat_interleave(width)
        nodes = child[chosen].masked_fill(dead, -1)
        scores = candidate_scores[chosen].masked_fill(dead, -torch.inf)
        # A dead beam of another user's parent would look up a foreign history: it goes on from any row, and is never a
        # candidate.
        codes = torch.cat([codes[parent], token[chosen, None]], dim=1)
        if level + 1 < trie.num_levels:
            cache.batch_select_indices(parent)
            log_probs = _continue(model, inputs, rows, codes, 1, cache)[:, -1]
    else:
        return nodes.view(num_users, -1), scores.view(num_users, -1)
    # every user has seen everything
    return nodes.new_full((num_users, 1), -1), scores.new_full((num_users, 1), -torch.inf)


@torch.no_grad()
def score_leaves(
    model, inputs: dict[str, torch.Tensor], token_ids: torch.Tensor, chunk_size: int = 512
) -> torch.Tensor:
    """
    Exact scores of items: the sum of the L log-probabilities over the full vocabulary, by teacher forcing in float32.

    Args:
        inputs: `input_ids` and `attention_mask` (B, S), prompts that end with the answer token.
        token_ids: (items, L) token ids of the items to score.
        chunk_size: items scored at a time.

    Returns:
        (B, items) float32.
    """
    token_ids = token_ids.to(inputs["input_ids"].device)
    levels = token_ids.shape[1]
    scores = []
    for user in range(len(inputs["input_ids"])):
        prompt = {name: tensor[user : user + 1] for name, tensor in inputs.items()}
        first, history = _prefill(model, prompt)
        parts = []
        for chunk in token_ids.split(chunk_size):
            score = first[0, chunk[:, 0]]
            if levels > 1:
                cache = copy.deepcopy(history)
                cache.batch_repeat_interleave(len(chunk))
                row = torch.zeros(len(chunk), dtype=torch.long, device=chunk.device)
                log_probs = _continue(model, prompt, row, chunk[:, :-1], levels - 1, cache)
                score = score + log_probs.gather(2, chunk[:, 1:, None]).squeeze(-1).sum(-1)
            parts.append(score)
        scores.append(torch.cat(parts))
    return torch.stack(scores)
