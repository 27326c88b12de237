"""The policy of an encoder-decoder over unordered codes: sampled items with the way to them, and its log-probabilities.

At every step the policy chooses a (codebook, code) pair among the legal ones: a code of a codebook not used yet (where
the model's `code_order` is fixed, of the next one) that some item has together with the codes chosen so far. Its
distribution is softmax(log S / temperature) over these pairs, S being the confidences of REG4Rec's equation (5).
Histories are encoded once for a group's samples.
"""

import torch

from hf_genrec.catalogue.item_sets import ItemSets
from hf_genrec.catalogue.request_checks import checked_count, checked_temperature
from hf_genrec.catalogue.sound_scores import require_sound, require_sound_weights
from hf_genrec.methods.reg4rec.path_decoder import PathDecoder
from hf_genrec.post_training.prompt_groups import PromptGroups


@torch.no_grad()
def sample_paths(
    model, inputs: dict[str, torch.Tensor], sets: ItemSets, num_samples: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Independent samples of the policy; the same item may come more than once, and in several orders.

    Args:
        model ([`Reg4RecForConditionalGeneration`])
        inputs: `input_ids` and `attention_mask` (P, T * M), histories.
        sets: the legal items, on the model's device.
        num_samples: G, samples of each history.

    Returns:
        codes (P, G, M), token ids in the order of their choice; their log-probabilities (P, G, M) float32; and the
        category distribution predicted at every step, from the codes before it, (P, G, M, categories) float32.

    Raises:
        ValueError: if the model's scores are NaN or infinite, or rule out everything that is legal; for a temperature
        that is not above 0.
    """
    num_samples, temperature = checked_count("num_samples", num_samples), checked_temperature(temperature)
    require_sound_weights(model)
    num_prompts, device = len(inputs["input_ids"]), inputs["input_ids"].device
    input_ids, attention_mask = _readable(model.config, inputs["input_ids"], inputs["attention_mask"])
    decoder = PathDecoder(model, model.get_encoder()(input_ids, attention_mask))
    hidden = decoder.start()
    states = sets.start(num_prompts)
    parents = torch.zeros(num_prompts, num_samples, dtype=torch.long, device=device)
    codes, log_probs, categories = [], [], []
    for step in range(sets.num_codebooks):
        width = hidden.shape[1]
        legal = sets.allowed(states, model.config.code_order).unflatten(0, (num_prompts, width))
        of_pairs = _legal_log_probs(model.code_log_probs(hidden), legal, temperature)  # (P, W, V)
        require_sound(model, of_pairs)
        draws = num_samples // width
        token = torch.multinomial(of_pairs.exp().flatten(0, 1), draws, replacement=True)
        token = token.view(num_prompts, width, draws)
        codes.append(token.view(num_prompts, num_samples))
        log_probs.append(of_pairs.gather(2, token).view(num_prompts, num_samples))
        predicted = model.category_head(hidden).float().softmax(-1)
        categories.append(predicted.expand(-1, num_samples, -1))
        if step + 1 < sets.num_codebooks:
            first_row = torch.arange(num_prompts, device=device)[:, None] * width
            states = sets.advance(states, (first_row + parents).flatten(), codes[-1].flatten())
            hidden = decoder.extend(codes[-1], parents)
            parents = torch.arange(num_samples, device=device).expand(num_prompts, -1)
    return torch.stack(codes, dim=-1), torch.stack(log_probs, dim=-1), torch.stack(categories, dim=2)


def path_log_probs(
    logits: torch.Tensor, codes: torch.Tensor, sets: ItemSets, temperature: float = 1.0, order: str = "confidence"
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Log-probabilities of paths, step by step, and the entropies of the distributions they were chosen from.

    Args:
        logits: (n, M, V'), V' at least the tokens of `sets`; row i predicts what is chosen at step i.
        codes: (n, M) token ids of items of `sets`, in the order of their choice.
        sets: the legal items, on the same device.
        order: the model's `code_order`.

    Returns:
        two (n, M) float32, differentiable.
    """
    states = sets.start(len(codes))
    everyone = torch.arange(len(codes), device=codes.device)
    log_probs, entropies = [], []
    for step in range(sets.num_codebooks):
        of_pairs = _legal_log_probs(logits[:, step], sets.allowed(states, order), temperature)
        log_probs.append(of_pairs.gather(1, codes[:, step, None]).squeeze(1))
        surprise = of_pairs.masked_fill(of_pairs == -torch.inf, 0.0)
        entropies.append(-(of_pairs.exp() * surprise).sum(-1))
        if step + 1 < sets.num_codebooks:
            states = sets.advance(states, everyone, codes[:, step])
    return torch.stack(log_probs, dim=1), torch.stack(entropies, dim=1)


def _legal_log_probs(logits: torch.Tensor, legal: torch.Tensor, temperature: float) -> torch.Tensor:
    """The policy among legal tokens (..., V), -inf elsewhere; logits (..., V'), V' >= V."""
    scores = logits[..., : legal.shape[-1]].float() / temperature
    return scores.masked_fill(~legal, -torch.inf).log_softmax(-1)


def group_path_logits(model, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_codes: int) -> torch.Tensor:
    """
    Logits of the steps of paths, (n, M, V); each history is encoded, and differentiated, once.

    Args:
        model: an encoder-decoder, as it is trained.
        input_ids, attention_mask: (n, T * M + M), left-padded histories and behind each the M codes of a path.
        num_codes: M.
    """
    config = getattr(model, "module", model).config  # what several processes train is wrapped
    paths = input_ids[:, -num_codes:]
    groups = PromptGroups.find(*_readable(config, input_ids[:, :-num_codes], attention_mask[:, :-num_codes]))
    fed = torch.nn.functional.pad(paths[:, :-1], (1, 0), value=config.decoder_start_token_id)
    table = groups.spread(fed, 0)  # (U, most, M): as many paths for every history
    logits = model(
        input_ids=torch.where(groups.prompts < 0, config.pad_token_id, groups.prompts),
        attention_mask=(groups.prompts >= 0).long(),
        decoder_input_ids=table.flatten(0, 1),
    ).logits
    return logits.unflatten(0, table.shape[:2])[groups.row, groups.place]


def _readable(config, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories and their mask; where all are empty with one padded place, for the encoder reads at least one."""
    if input_ids.shape[1]:
        return input_ids, attention_mask
    shape = (len(input_ids), config.num_codebooks)
    return input_ids.new_full(shape, config.pad_token_id), attention_mask.new_zeros(shape)
