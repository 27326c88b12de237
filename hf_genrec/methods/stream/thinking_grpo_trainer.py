"""TRL's GRPO for decoders that think in tokens (STREAM)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.catalogue.transformers_bridge import overrides
from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.method import PostTraining
from hf_genrec.methods.stream.stream_beams import TraceBeamDecoder
from hf_genrec.methods.stream.thinking_policy import answer_log_probs, sample_answers
from hf_genrec.methods.stream.thinking_rewards import OF_THE_MODEL, ThinkingRewards
from hf_genrec.methods.stream.thinking_space import item_directions, thinking_states
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.grpo_trainer import GenRecGRPOTrainer

NEGATIVES = 50


@overrides("_calculate_rewards")
class ThinkingGRPOTrainer(GenRecGRPOTrainer):
    """
    [`GenRecGRPOTrainer`] whose completions are thinking tokens and then the L codes of an item.

    The reward functions that ask the model are given, of the policy as it is: `states`, the last one behind the
    thinking tokens, and `target_directions`, (d,) each; the log-probability of the target's codes behind them
    (`with_trace`) and behind none (`without_trace`, the decoder reading start and answer token alone); and those of 50
    items drawn from the catalogue, the target not among them (`negatives`).
    """

    def _prepare_constraint(self) -> None:
        super()._prepare_constraint()
        self.num_thinking = self.accelerator.unwrap_model(self.model).config.num_thinking_tokens
        self.max_completion_length = self.args.max_completion_length = self.num_thinking + self.processor.num_levels

    def _sample(self, model, inputs, num_samples):
        tokens, log_probs = sample_answers(model, inputs, self.trie, num_samples, self.temperature)
        return tokens, {"scores": log_probs[..., self.num_thinking :].sum(-1)}

    def _log_probs(self, model, input_ids, attention_mask, num_codes):
        return answer_log_probs(model, input_ids, attention_mask, self.num_thinking, self.trie, self.temperature)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if set(OF_THE_MODEL) & set(self.args.rewards):
            model = self.accelerator.unwrap_model(self.model)
            model = model.get_base_model() if is_peft_model(model) else model
            traces = np.array(completion_ids_list)[:, : self.num_thinking]
            targets = np.array([example["targets"][0] for example in inputs])
            with evaluation_mode(model):
                told = judged(model, [example["prompt"] for example in inputs], traces, targets, self.num_generations)
            self._rollout |= {name: values.cpu().numpy() for name, values in told.items()}
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


@torch.no_grad()
def judged(
    model, histories: list[np.ndarray], traces: np.ndarray, targets: np.ndarray, group_size: int
) -> dict[str, torch.Tensor]:
    """
    What the rewards are told of n thinking traces, see [`ThinkingGRPOTrainer`].

    Args:
        histories: catalogue rows, n of them; those of a group are the same and stand one after the other.
        traces: (n, l) token ids.
        targets: (n,) catalogue rows.
        group_size: G.
    """
    processor, device = model.processor, model.device
    token_ids = torch.from_numpy(processor.token_ids).to(device)
    prompts = {name: part.to(device) for name, part in processor.prompts(histories[::group_size]).items()}
    encoding = model.get_encoder()(**prompts)
    repeated = type(encoding)(**{name: part.repeat_interleave(group_size, 0) for name, part in encoding.items()})
    right = torch.from_numpy(targets).to(device)
    # One of the others, evenly: rows from the target on move up by one.
    others = torch.randint(max(len(token_ids) - 1, 1), (len(targets), NEGATIVES), device=device)
    others = (others + (others >= right[:, None])).clamp(max=len(token_ids) - 1)
    candidates = token_ids[torch.cat([right[:, None], others], 1)]  # (n, 1 + 50, L)
    levels = candidates.shape[2]

    decoder = TraceBeamDecoder(model, 1 + NEGATIVES, levels - 1, torch.from_numpy(traces).to(device))
    log_probs = decoder.item_log_probs(decoder.start(None, encoder_outputs=repeated), candidates)
    states = thinking_states(decoder.hidden, model.state_map)[:, -1]
    nothing = torch.empty(len(histories[::group_size]), 0, dtype=torch.long, device=device)
    direct = TraceBeamDecoder(model, 1, levels - 1, nothing)
    first = direct.start(None, encoder_outputs=encoding)
    without = direct.item_log_probs(first, candidates[::group_size, :1])
    return {
        "states": states,
        "target_directions": item_directions(model.get_input_embeddings().weight, token_ids[right]),
        "with_trace": log_probs[:, 0],
        "without_trace": without[:, 0].repeat_interleave(group_size),
        "negatives": log_probs[:, 1:],
    }


def build_rewards(arguments: GRPOArguments, model, item_tokenizer: Path) -> list[Callable]:
    """
    TRL's reward functions, in the order of `arguments.rewards`.

    Raises:
        ValueError: for a reward that is none of the model's, or one of thinking tokens for a model without any.
    """
    of_thinking = [name for name in arguments.rewards if name in ("format", *OF_THE_MODEL)]
    if of_thinking and not model.config.num_thinking_tokens:
        raise ValueError(f"rewards: {of_thinking[0]} is one of thinking tokens, and this model writes none")
    rewards = ThinkingRewards(model.processor, arguments.horizon_decay, int(arguments.num_generations or 0))
    return rewards.chosen(arguments.rewards)


def loss_batch(model, examples: list[dict[str, Any]]) -> dict[str, Any]:
    return Seq2SeqCollator(model.processor)(examples)


POST_TRAINING = PostTraining(ThinkingGRPOTrainer, build_rewards, loss_batch)
