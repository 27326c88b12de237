"""The policy of a decoder that thinks: thinking tokens from its whole vocabulary, then codes under the trie.

Both are softmax(logits / temperature), over all tokens and over the legal ones. A history is encoded once for a group's
samples.
"""

import torch

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.catalogue.request_checks import checked_count, checked_temperature
from hf_genrec.catalogue.sound_scores import require_sound, require_sound_weights
from hf_genrec.decoding.seq2seq_beams import Seq2SeqBeamDecoder
from hf_genrec.post_training.prompt_groups import PromptGroups
from hf_genrec.post_training.trie_policy import code_log_probs, sample_codes


@torch.no_grad()
def sample_answers(
    model, inputs: dict[str, torch.Tensor], trie: ItemTrie, num_samples: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Independent samples of the policy, each with thinking tokens of its own.

    Args:
        model ([`StreamForConditionalGeneration`])
        inputs: `input_ids` and `attention_mask` (P, S), left-padded prompts.
        trie: the legal items, on the model's device.
        num_samples: G, samples of each prompt.

    Returns:
        thinking tokens and codes (P, G, l + L), and their log-probabilities (P, G, l + L) float32.

    Raises:
        ValueError: if the model's scores are NaN or infinite, or rule out everything that is legal; for a temperature
        that is not above 0.
    """
    num_samples, temperature = checked_count("num_samples", num_samples), checked_temperature(temperature)
    require_sound_weights(model)
    thinks, levels = model.config.num_thinking_tokens, model.config.num_levels
    decoder = Seq2SeqBeamDecoder(model, num_samples, thinks + levels)  # which adds no thinking tokens itself
    states = decoder.start(**inputs)
    own = torch.arange(num_samples, device=states.device).expand(len(states), -1)
    parents, tokens, log_probs = torch.zeros_like(own), [], []
    for place in range(thinks):
        of_tokens = (decoder.logits(states, place % levels).float() / temperature).log_softmax(-1)  # (P, W, V)
        require_sound(model, of_tokens)
        width = of_tokens.shape[1]
        drawn = torch.multinomial(of_tokens.exp().flatten(0, 1), num_samples // width, replacement=True)
        drawn = drawn.view(len(states), width, -1)
        log_probs.append(of_tokens.gather(2, drawn).flatten(1))
        tokens.append(drawn.flatten(1))
        states = decoder.extend(tokens[-1], parents)
        parents = own
    if thinks:
        states = decoder.extend(torch.full_like(own, model.config.answer_token_id), own)
    codes, of_codes = sample_codes(model, decoder, states, trie, num_samples, temperature)
    if not thinks:
        return codes, of_codes
    return torch.cat([torch.stack(tokens, -1), codes], -1), torch.cat([torch.stack(log_probs, -1), of_codes], -1)


def answer_log_probs(
    model, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_thinking: int, trie: ItemTrie, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Log-probabilities of sampled thinking tokens and codes, and the entropies of what they were chosen from.

    Args:
        model: as it is trained; each history is encoded, and differentiated, once.
        input_ids, attention_mask: (n, S + l + L), left-padded prompts and behind each an answer.
        num_thinking: l.
        trie: the legal items, on the same device.

    Returns:
        two (n, l + L) float32, differentiable.
    """
    levels, prompt_length = trie.num_levels, input_ids.shape[1] - num_thinking - trie.num_levels
    config = getattr(model, "module", model).config  # what several processes train is wrapped
    groups = PromptGroups.find(input_ids[:, :prompt_length], attention_mask[:, :prompt_length])
    trace, codes = input_ids[:, prompt_length:-levels], input_ids[:, -levels:]
    start = torch.full_like(codes[:, :1], config.answer_token_id)  # it closes the thinking tokens, too
    fed = torch.cat([start, trace, start, codes[:, :-1]] if num_thinking else [start, codes[:, :-1]], dim=1)
    table = groups.spread(fed, 0)  # (U, most, T): as many answers for every history
    logits = model(
        input_ids=torch.where(groups.prompts < 0, config.pad_token_id, groups.prompts),
        attention_mask=(groups.prompts >= 0).long(),
        decoder_input_ids=table.flatten(0, 1),
    ).logits
    logits = logits.unflatten(0, table.shape[:2])[groups.row, groups.place]
    of_codes, of_code_entropy = code_log_probs(logits[:, -levels:], codes, trie, temperature)
    of_tokens = (logits[:, :num_thinking].float() / temperature).log_softmax(-1)
    of_trace = of_tokens.gather(2, trace[..., None]).squeeze(-1)
    entropy = -(of_tokens.exp() * of_tokens).sum(-1)
    return torch.cat([of_trace, of_codes], 1), torch.cat([entropy, of_code_entropy], 1)
