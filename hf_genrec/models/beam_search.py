"""Beam search over a catalogue's trie, and exact scoring."""

import copy

import torch
from transformers import DynamicCache

from .item_trie import ItemTrie


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
        model: has `start_beams` and `extend_beams`, as CareForCausalLM.
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

    state, logits = model.start_beams(**inputs)
    nodes = torch.zeros(num_users, 1, dtype=torch.long, device=device)  # (B, W) of each beam, -1: dead
    scores = torch.zeros(num_users, 1, device=device)
    for level in range(trie.num_levels):
        width = nodes.shape[1]
        beam, token, child = trie.allowed(nodes.flatten(), level)
        user = beam // width
        not_excluded = _not_all_excluded(trie, child, level + 1, user, excluded)
        if not_excluded is not None:
            beam, token, child, user = (tensor[not_excluded] for tensor in (beam, token, child, user))
        if not len(beam):  # every user has seen everything
            return torch.full_like(nodes, -1), torch.full_like(scores, -torch.inf)
        log_probs = logits.float().log_softmax(-1).flatten(0, 1)
        candidate_scores = scores.flatten()[beam] + log_probs[beam, token]
        chosen = _best_per_user(user, candidate_scores, num_users, num_beams)
        dead = chosen < 0
        chosen = chosen.clamp(min=0)  # a dead beam goes on from anywhere, and never has a candidate
        nodes = child[chosen].masked_fill(dead, -1)
        scores = candidate_scores[chosen].masked_fill(dead, -torch.inf)
        if level + 1 < trie.num_levels:
            logits = model.extend_beams(state, token[chosen], beam[chosen] % width)
    return nodes, scores


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
        history = DynamicCache(config=model.config)
        outputs = model(**prompt, past_key_values=history, use_cache=True, logits_to_keep=1)
        first = outputs.logits[0, -1].float().log_softmax(-1)
        parts = []
        for chunk in token_ids.split(chunk_size):
            score = first[chunk[:, 0]]
            if levels > 1:
                codes, rows = chunk[:, :-1], len(chunk)
                cache = copy.deepcopy(history)
                cache.batch_repeat_interleave(rows)
                mask = torch.nn.functional.pad(prompt["attention_mask"], (0, levels - 1), value=1)
                outputs = model(
                    input_ids=codes,
                    context_ids=torch.cat([prompt["input_ids"].expand(rows, -1), codes], dim=1),
                    attention_mask=mask.expand(rows, -1),
                    past_key_values=cache,
                    use_cache=True,
                )
                log_probs = outputs.logits.float().log_softmax(-1)
                score = score + log_probs.gather(2, chunk[:, 1:, None]).squeeze(-1).sum(-1)
            parts.append(score)
        scores.append(torch.cat(parts))
    return torch.stack(scores)
