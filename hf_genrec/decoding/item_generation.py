"""What models that write codes share: a `generate` that refuses more answers than there are legal ones, and vectors of
items."""

from typing import Any

import numpy as np
import torch

from ..catalogue.sound_scores import require_sound_weights


class ItemGeneration:
    """
    Placed before a model class with `generate`.

    Attributes:
        level_decay (`float`): weight of a code in the similarity of two items, in units of that of the code before it.
    """

    level_decay = 1.0
    device: Any
    generation_config: Any
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

    def generate(self, inputs=None, generation_config=None, logits_processor=None, *args, **kwargs):
        """
        transformers' `generate`. Its beam search fills up with copies of answers, and with what is none, where a logits
        processor of the catalogue lets fewer answers through than it is to return.

        Raises:
            ValueError: for more `num_return_sequences` than different answers (of sampled beams: for more `num_beams`),
            or weights that hold NaN.
        """

        def setting(name: str) -> Any:
            configs = (kwargs, vars(generation_config or self.generation_config), vars(self.generation_config))
            return next((config[name] for config in configs if config.get(name) is not None), None)

        limits = [one.num_answers for one in logits_processor or () if hasattr(one, "num_answers")]
        num_beams = setting("num_beams") or 1
        if limits and num_beams > 1:
            name = "num_beams" if setting("do_sample") else "num_return_sequences"
            if (setting(name) or 1) > min(limits):
                raise ValueError(
                    f"{name}={setting(name)}, and only {min(limits)} different answers are legal: ask for at most "
                    f"{min(limits)}, or call recommend."
                )
        require_sound_weights(self)  # type: ignore[arg-type]
        return super().generate(inputs, generation_config, logits_processor, *args, **kwargs)  # type: ignore[misc]
