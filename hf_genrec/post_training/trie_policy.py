"""The policy of a decoder under a trie: sampled items, and the log-probabilities of their codes.

The policy chooses a code among the legal ones: softmax(logits / temperature) over the children of the trie's node. Both
functions encode the history of a group's samples once.
"""

import torch

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.catalogue.request_checks import checked_count, checked_temperature
from hf_genrec.catalogue.sound_scores import require_sound, require_sound_weights
from hf_genrec.decoding.beam_decoder import BeamDecoder
from hf_genrec.post_training.prompt_groups import PromptGroups


@torch.no_grad()
def sample_items(
    model, inputs: dict[str, torch.Tensor], trie: ItemTrie, num_samples: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Independent samples of the policy; the same item may come more than once.

    Args:
        model: a decoder with aligned logits, see [`BeamDecoder`].
        inputs: `input_ids` and `attention_mask` (P, S), left-padded prompts that end with the answer token.
        trie: the legal items, on the model's device.
        num_samples: G, samples of each prompt.

    Returns:
        codes (P, G, L), token ids, and their log-probabilities (P, G, L) float32.

    Raises:
        ValueError: if the model's scores are NaN or infinite, or rule out everything that is legal; for a temperature
        that is not above 0.
    """
    num_samples, temperature = checked_count("num_samples", num_samples), checked_temperature(temperature)
    require_sound_weights(model)
    decoder = getattr(model, "beam_decoder_class", BeamDecoder)(model, num_samples, trie.num_levels - 1)
    return sample_codes(model, decoder, decoder.start(**inputs), trie, num_samples, temperature)


def sample_codes(
    model, decoder: BeamDecoder, states: torch.Tensor, trie: ItemTrie, num_samples: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    [`sample_items`] from where a decoder has read what stands before the codes.

    Args:
        states: (P, W, hidden_size), which predict the first code: W is 1, or each sample has its own.
    """
    num_prompts, width, device = *states.shape[:2], states.device
    samples = torch.arange(num_samples, device=device).expand(num_prompts, -1)
    parents = torch.zeros_like(samples) if width == 1 else samples
    nodes = torch.zeros(num_prompts, width, dtype=torch.long, device=device)  # all samples leave from the root
    codes, log_probs = [], []
    for level in range(trie.num_levels):
        logits = decoder.logits(states, level)
        candidates, children, of_candidates = _legal_log_probs(logits, nodes, trie, level, temperature)
        require_sound(model, of_candidates)
        draws = num_samples // nodes.shape[1]
        place = torch.multinomial(of_candidates.exp().flatten(0, 1), draws, replacement=True)
        place = place.view(num_prompts, -1, draws)
        codes.append(candidates.gather(2, place).view(num_prompts, num_samples))
        log_probs.append(of_candidates.gather(2, place).view(num_prompts, num_samples))
        nodes = children.gather(2, place).view(num_prompts, num_samples)
        if level + 1 < trie.num_levels:
            states = decoder.extend(codes[-1], parents)
            parents = samples
    return torch.stack(codes, dim=-1), torch.stack(log_probs, dim=-1)


def code_log_probs(
    logits: torch.Tensor, codes: torch.Tensor, trie: ItemTrie, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Log-probabilities of the codes of items of the trie, and the entropies of the distributions they were chosen from.

    Args:
        logits: (n, L, V); row l predicts code l.
        codes: (n, L) token ids of items of the trie.
        trie: the legal items, on the same device.

    Returns:
        two (n, L) float32, differentiable.
    """
    nodes = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    log_probs, entropies = [], []
    for level in range(trie.num_levels):
        candidates, _, of_candidates = _legal_log_probs(logits[:, level], nodes, trie, level, temperature)
        nodes = trie.step(nodes, codes[:, level], level)
        place = (candidates == codes[:, level, None]).int().argmax(1, keepdim=True)  # the first: others are not legal
        log_probs.append(of_candidates.gather(1, place).squeeze(1))
        surprise = of_candidates.masked_fill(of_candidates == -torch.inf, 0.0)
        entropies.append(-(of_candidates.exp() * surprise).sum(-1))
    return torch.stack(log_probs, dim=1), torch.stack(entropies, dim=1)


def _legal_log_probs(
    logits: torch.Tensor, nodes: torch.Tensor, trie: ItemTrie, level: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The policy after `nodes` (...,) of `level`, for logits (..., V).

    Returns:
        candidate tokens (..., K) int64; the nodes (..., K) that they lead to; and log-probabilities (..., K), -inf
        where a candidate is not legal.
    """
    tokens, children, mask = trie.allowed(nodes, level)
    scores = trie.gather(logits, tokens, level).float() / temperature
    return tokens.long(), children.long(), (scores + mask).log_softmax(-1)


def group_logits(model, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_codes: int) -> torch.Tensor:
    """
    Logits of the codes of answers, (n, L, V); answers to the same prompt share a packed row, so that each history is
    encoded, and differentiated, once.

    Args:
        model: a decoder that reads `block_ids`.
        input_ids, attention_mask: (n, S + L), left-padded prompts that end with the answer token, then L codes.
        num_codes: L.
    """
    prompt_length = input_ids.shape[1] - num_codes
    groups = PromptGroups.find(input_ids[:, :prompt_length], attention_mask[:, :prompt_length])
    history = groups.prompts[:, :-1]
    # Behind the history a block for every answer: the answer token, which ends the prompt, and the codes.
    blocks = groups.spread(input_ids[:, prompt_length - 1 :], 0)  # (U, most, 1 + L)
    numbers = groups.spread((groups.place + 1)[:, None].expand(-1, num_codes + 1), -1)
    packed_ids = torch.cat([history.clamp(min=0), blocks.flatten(1)], dim=1)
    block_ids = torch.cat([torch.where(history < 0, -1, 0), numbers.flatten(1)], dim=1)
    predicting = block_ids > 0
    predicting[:, history.shape[1] + num_codes :: num_codes + 1] = False  # nothing follows an answer's last code

    logits = model(input_ids=packed_ids, block_ids=block_ids, logits_to_keep=predicting).logits
    by_group = (groups.row * groups.most + groups.place).argsort().argsort()  # the order in which they come
    return logits.view(len(by_group), num_codes, -1)[by_group]
