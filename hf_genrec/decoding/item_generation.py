"""What models that write codes share: vectors of items, and a `generate` that mends, or refuses at once, what asks for
more than the catalogue has."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ..catalogue.request_checks import checked_between, checked_count, checked_temperature
from ..catalogue.sound_scores import require_sound_weights

MOST_PENALTY = 20.0  # of a length: scores divided by lengths to this power are numbers still


class CodeVectors:
    """
    Placed before a model class whose items have codes.

    Attributes:
        level_decay (`float`): weight of a code in the similarity of two items, in units of that of the code before it.
    """

    level_decay = 1.0
    device: Any
    get_input_embeddings: Any
    _require_processor: Any

    def similarity_vectors(self) -> torch.Tensor:
        """
        (N, L * d), the embeddings of an item's codes one behind the other, so that a cosine is the weighted mean of
        those of the levels. Embeddings of seldom read levels are the longest: all are brought to one length first.
        """
        processor = self._require_processor()
        sizes = torch.tensor(processor.codebook_sizes)
        tokens = torch.from_numpy(np.concatenate(processor.code_token_ids)).to(self.device)
        table = torch.nn.functional.normalize(self.get_input_embeddings()(tokens).float(), dim=-1)  # (codes, d)
        weights = self.level_decay ** torch.arange(len(sizes)).repeat_interleave(sizes)
        table = table * weights.sqrt().unsqueeze(-1).to(table.device)
        places = torch.from_numpy(processor.codes) + (sizes.cumsum(0) - sizes)  # (N, L)
        return table[places.to(table.device)].flatten(1)


class ItemGeneration(CodeVectors):
    """Placed before a model class with `generate`."""

    generation_config: Any

    def generate(self, inputs=None, generation_config=None, logits_processor=None, *args, **kwargs):
        """
        transformers' `generate`. Its beam search fills up with copies of answers, and with what is none, where a logits
        processor of the catalogue lets fewer answers through than it is to return. Beams beyond those that can be alive
        are left out, and so are tokens behind the codes of an item.

        Raises:
            ValueError: for more `num_return_sequences` than different answers (of sampled beams: for more `num_beams`),
            numbers that make no sense, weights that hold NaN, or a model that rules out all that it is to sample.
        """

        def setting(name: str) -> Any:
            configs = (kwargs, vars(generation_config or self.generation_config), vars(self.generation_config))
            return next((config[name] for config in configs if config.get(name) is not None), None)

        names = ("num_beams", "num_return_sequences", "max_new_tokens")
        checked: dict[str, Any] = {name: setting(name) for name in names}
        checked = {name: checked_count(name, value) for name, value in checked.items() if value is not None}
        num_beams, wanted = (checked.get(name, 1) for name in ("num_beams", "num_return_sequences"))
        sampled, temperature = setting("do_sample"), setting("temperature")
        if sampled and temperature is not None:
            checked["temperature"] = checked_temperature(temperature)
        _check_numbers(setting, [name for name in vars(self.generation_config) if name not in checked])
        constraints = [kwargs.get("custom_generate"), *(logits_processor or ())]
        lengths = [one.num_codes for one in constraints if hasattr(one, "num_codes")]
        if lengths and "max_new_tokens" in checked:
            checked["max_new_tokens"] = min(checked["max_new_tokens"], *lengths)
        limits = [one.num_answers for one in logits_processor or () if hasattr(one, "num_answers")]
        if limits and num_beams > 1:
            name = "num_beams" if sampled else "num_return_sequences"
            if checked.get(name, 1) > min(limits):
                raise ValueError(
                    f"{name}={checked[name]}, and only {min(limits)} different answers are legal: ask for at most "
                    f"{min(limits)}, or call recommend."
                )
        paths = [one.num_paths for one in constraints if hasattr(one, "num_paths")]
        if paths and num_beams > max(2, wanted, min(paths)):
            checked["num_beams"] = max(2, wanted, min(paths))
        changed = {name: value for name, value in checked.items() if value is not setting(name)}
        if generation_config is not None:  # transformers takes settings from one place only
            generation_config = copy.deepcopy(generation_config)
            vars(generation_config).update(changed)
            changed = {name: value for name, value in changed.items() if name in kwargs}
        kwargs |= changed
        if sampled and logits_processor:
            logits_processor = [
                one.for_sampling(num_beams) if hasattr(one, "for_sampling") else one for one in logits_processor
            ]
        require_sound_weights(self)  # type: ignore[arg-type]
        return super().generate(inputs, generation_config, logits_processor, *args, **kwargs)  # type: ignore[misc]


def _check_numbers(setting: Callable[[str], Any], names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: for numbers that transformers takes and cannot compute with.
    """
    for name in names:
        value = setting(name)
        if name == "length_penalty" and value is not None:
            checked_between(name, value, -MOST_PENALTY, MOST_PENALTY)
        elif name == "top_p" and value is not None:
            checked_between(name, value, 0, 1)
        elif isinstance(value, float) and not math.isfinite(value) and name not in ("max_time", "temperature"):
            raise ValueError(f"{name}={value}: give a finite number.")
