"""Beam search over a catalogue's trie, and exact scoring."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import DynamicCache
from transformers.generation import GenerateBeamDecoderOnlyOutput

from ..catalogue.item_trie import ItemTrie
from ..catalogue.request_checks import checked_choice
from ..catalogue.sound_scores import require_sound
from ..catalogue.transformers_bridge import CACHE
from ..catalogue.trie_arrays import gather_last
from .beam_decoder import BeamDecoder
from .user_cache import UserCache


class Beams(NamedTuple):
    """
    What a search has found, best first, (B, w) each.

    Attributes:
        leaves: of the trie, ties in its order; -1 where fewer are legal.
        scores: their log-probabilities, -inf where there is no leaf.
        codes: the last token of each.
        parents: the beams of the step before that they continue.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    codes: torch.Tensor
    parents: torch.Tensor


@torch.no_grad()
def beam_search(
    model,
    inputs: dict[str, torch.Tensor],
    trie: ItemTrie,
    num_beams: int,
    excluded: torch.Tensor | None = None,
    normalize: str = "vocabulary",
    user_cache: UserCache | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The best leaves of the trie for each prompt.

    Each prompt is encoded once. A beam's score is the sum of its codes' log-probabilities in float32; only legal codes
    are candidates. With at least as many beams as leaves the search is exhaustive. The steps wait for nothing: no shape
    in them depends on the data.

    Args:
        model: a decoder with aligned logits, see [`BeamDecoder`].
        inputs: `input_ids` and `attention_mask` (B, S), left-padded prompts that end with the answer token.
        trie: the legal items.
        num_beams: prefixes kept per prompt and level.
        excluded (*optional*): sorted keys `user * len(trie) + place in trie.items` of items a user must not get.
        normalize: `"vocabulary"` for log-probabilities over the full vocabulary, `"level"` over the tokens that some
            item has at that level (with a large vocabulary only their logits are computed), `"legal"` over the tokens
            that lead to an item of `trie` behind the codes of the beam.
        user_cache (*optional*): encoded histories, of which those that begin a prompt are not encoded again.

    Returns:
        leaves (B, w) and scores (B, w), best first, ties in the trie's order; where fewer leaves are legal, -1 and
        -inf. w is at most the number of leaves. All scores of a prompt for which the model gave NaN or infinity
        are NaN: callers pass them through `require_sound`, where they wait for the device anyway.

    Raises:
        ValueError: for another `normalize`.
    """
    check_normalize(normalize)
    num_beams = min(num_beams, trie.num_leaves)  # more would never be alive
    decoder = getattr(model, "beam_decoder_class", BeamDecoder)(model, num_beams, trie.num_levels - 1)
    states = decoder.start(**inputs) if user_cache is None else user_cache.start(decoder, **inputs)
    beams = search_beams(decoder, states, trie, num_beams, excluded, normalize)
    return beams.leaves, beams.scores


def search_beams(
    decoder: BeamDecoder,
    states: torch.Tensor,
    trie: ItemTrie,
    num_beams: int,
    excluded: torch.Tensor | None = None,
    normalize: str = "vocabulary",
) -> Beams:
    """
    The search of [`beam_search`], from where a decoder has encoded the prompts.

    Args:
        states: (B, 1, hidden_size), which the decoder's `start` has returned.
    """
    device, num_users = states.device, len(states)
    trie = trie.to(device)
    user = torch.arange(num_users, device=device)[:, None, None]
    nodes = torch.zeros(num_users, 1, dtype=torch.long, device=device)  # (B, W) of each beam, -1: dead
    scores = torch.zeros(num_users, 1, device=device)
    sound = torch.ones(num_users, dtype=torch.bool, device=device)
    for level in range(trie.num_levels):
        tokens, children, of_trie = trie.allowed(nodes, level)  # (B, W, K)
        mask = of_trie
        if excluded is not None:
            legal = children.masked_fill(mask.bool(), -1)
            mask = mask.masked_fill(_all_excluded(trie, legal, level + 1, user, excluded), -torch.inf)
        log_probs, normaliser = _log_probs(decoder, states, tokens, trie, level, normalize)
        if normalize == "legal":
            total = (log_probs + of_trie).logsumexp(-1, keepdim=True)
            log_probs = log_probs - total.masked_fill(total == -torch.inf, 0)  # of a dead beam
        # NaN or infinity anywhere among the logits is in what normalises them: looked at here, since the choice hides
        # it.
        sound &= (normaliser.isfinite() | (nodes < 0)).all(1)
        candidates = (scores[..., None] + log_probs + mask).flatten(1)
        chosen = _best(candidates, children.flatten(1), num_beams)
        scores = candidates.gather(1, chosen)
        nodes = children.flatten(1).gather(1, chosen).long().masked_fill(~(scores > -torch.inf), -1)
        # A dead beam goes on from anywhere, and never has a candidate.
        codes, parents = tokens.flatten(1).gather(1, chosen).long(), chosen // tokens.shape[2]
        if level + 1 < trie.num_levels:
            states = decoder.extend(codes, parents)
    return Beams(nodes, scores.masked_fill(~sound[:, None], torch.nan), codes, parents)


def check_normalize(normalize: str) -> None:
    checked_choice("normalize", normalize, ("vocabulary", "level", "legal"))


def _log_probs(
    decoder: BeamDecoder, states, tokens: torch.Tensor, trie: ItemTrie, level: int, normalize: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Log-probabilities (B, W, K) of candidate tokens after states (B, W, hidden_size), and the logarithms (B, W) of what
    normalises them.
    """
    if normalize != "level":
        logits = decoder.logits(states, level).float()
        chosen = trie.gather(logits, tokens, level)
    else:
        vocabulary, head = trie.level_tokens(level), decoder.model.get_output_embeddings()  # tokens, rising
        if isinstance(head, torch.nn.Linear):
            bias = None if head.bias is None else head.bias[vocabulary]
            logits = torch.nn.functional.linear(states, head.weight[vocabulary], bias).float()
        else:  # in an adapter, which is asked, not read
            logits = head(states)[..., vocabulary].float()
        chosen = gather_last(logits, torch.searchsorted(vocabulary, tokens.long()).clamp(max=len(vocabulary) - 1))
    normaliser = logits.logsumexp(-1, keepdim=True)
    return chosen - normaliser, normaliser.squeeze(-1)


def _best(scores: torch.Tensor, nodes: torch.Tensor, count: int) -> torch.Tensor:
    """
    Places (B, w) of the `count` best of a user's candidates (B, n), best first, ties to the lower node.

    No two candidates of a user are the same node, so the keys differ and the order is the same on every device.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: no negative zero
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # integers in the order of the floats
    keys = (rising << 32) | (0x7FFFFFFF - nodes)
    return keys.topk(min(count, keys.shape[1]), dim=1).indices


def _all_excluded(trie: ItemTrie, nodes: torch.Tensor, level: int, user, excluded: torch.Tensor) -> torch.Tensor:
    """Whether a user must not be given any item below each node, boolean in the shape of `nodes`."""
    start, end = trie.items_below(nodes, level)
    before = user * len(trie)
    seen = torch.searchsorted(excluded, before + end) - torch.searchsorted(excluded, before + start)
    return seen >= end - start


def constrained_beam_search(
    trie: ItemTrie, answer_token_id: int | None = None, is_end_of_history: Callable | None = None
) -> Callable:
    """
    What `model.generate(**inputs, custom_generate=..., num_beams=20, num_return_sequences=10)` calls to write items of
    a trie: [`beam_search`] in the place of stock beam search, for any decoder with aligned logits.

    Scores are divided by L ** length_penalty, as stock beam search's. Where fewer items than `num_return_sequences` are
    legal, rows of padding with a score of -inf fill the batch; `batch_decode_items` gives None for them.

    Args:
        trie: the legal items.
        answer_token_id (*optional*): the token that each prompt must end with.
        is_end_of_history (*optional*): from tokens (B,) to which of them end a prompt, where others do, too.
    """

    def generate(model, input_ids, logits_processor, generation_config, **model_kwargs):
        if generation_config.do_sample:
            raise ValueError("Constrained beam search does not sample: leave do_sample out, or custom_generate.")
        if len(logits_processor):
            names = ", ".join(type(processor).__name__ for processor in logits_processor)
            raise ValueError(f"Constrained beam search takes the trie alone: leave out {names}.")
        wanted, num_beams = generation_config.num_return_sequences, generation_config.num_beams
        # generate has repeated each prompt for its beams.
        copies = max(wanted, num_beams)
        prompts = input_ids[::copies]
        ends = is_end_of_history or (lambda token_ids: token_ids == answer_token_id)
        if answer_token_id is not None and not ends(prompts[:, -1]).all():
            raise ValueError(
                f"A prompt does not end with the answer token ({answer_token_id}): make prompts with the processor."
            )
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(prompts) if mask is None else mask[::copies]
        inputs = {"input_ids": prompts, "attention_mask": mask}
        if "encoder_outputs" in model_kwargs:  # of an encoder-decoder, which writes behind its start token
            encoding = model_kwargs["encoder_outputs"]
            inputs["encoder_outputs"] = type(encoding)(**{name: part[::copies] for name, part in encoding.items()})
        leaves, scores = beam_search(model, inputs, trie, copies)
        leaves, scores = leaves[:, :wanted], require_sound(model, scores)[:, :wanted]
        missing = wanted - leaves.shape[1]
        leaves = torch.nn.functional.pad(leaves, (0, missing), value=-1).flatten()
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf).flatten()
        pad = generation_config.pad_token_id or 0
        first_items, _ = trie.items_below(leaves.cpu().clamp(min=0), trie.num_levels)
        codes = trie.token_ids(first_items).to(prompts.device).masked_fill(leaves[:, None] < 0, pad)
        sequences = torch.cat([prompts.repeat_interleave(wanted, dim=0), codes], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        scores = scores / trie.num_levels**generation_config.length_penalty
        return GenerateBeamDecoderOnlyOutput(sequences=sequences, sequences_scores=scores)  # type: ignore[arg-type]

    generate.num_paths, generate.num_codes = trie.num_leaves, trie.num_levels  # type: ignore[attr-defined]
    return generate


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
        outputs = model(**prompt, use_cache=True, logits_to_keep=1, **{CACHE: history})
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
                    use_cache=True,
                    **{CACHE: cache},
                )
                log_probs = outputs.logits.float().log_softmax(-1)
                score = score + log_probs.gather(2, chunk[:, 1:, None]).squeeze(-1).sum(-1)
            parts.append(score)
        scores.append(torch.cat(parts))
    return torch.stack(scores)
