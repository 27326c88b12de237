"""`generate` of models that write items: what asks for more than the catalogue has is mended, or refused, at once."""

import copy
from typing import Any

from ..catalogue.request_checks import checked_count, checked_temperature
from ..catalogue.sound_scores import require_sound_weights


class ItemGeneration:
    """Placed before a model class with `generate`."""

    generation_config: Any

    def generate(self, inputs=None, generation_config=None, logits_processor=None, *args, **kwargs):
        """
        transformers' `generate`. Its beam search fills up with copies of answers, and with what is none, where a logits
        processor of the catalogue lets fewer answers through than it is to return. Beams beyond those that can be alive
        are left out.

        Raises:
            ValueError: for more `num_return_sequences` than different answers (of sampled beams: for more `num_beams`),
            numbers that make no sense, weights that hold NaN, or a model that rules out all that it is to sample.
        """

        def setting(name: str) -> Any:
            configs = (kwargs, vars(generation_config or self.generation_config), vars(self.generation_config))
            return next((config[name] for config in configs if config.get(name) is not None), None)

        checked: dict[str, Any] = {name: setting(name) for name in ("num_beams", "num_return_sequences")}
        checked = {name: checked_count(name, value) for name, value in checked.items() if value is not None}
        num_beams, wanted = (checked.get(name, 1) for name in ("num_beams", "num_return_sequences"))
        sampled, temperature = setting("do_sample"), setting("temperature")
        if sampled and temperature is not None:
            checked["temperature"] = checked_temperature(temperature)
        limits = [one.num_answers for one in logits_processor or () if hasattr(one, "num_answers")]
        if limits and num_beams > 1:
            name = "num_beams" if sampled else "num_return_sequences"
            if checked.get(name, 1) > min(limits):
                raise ValueError(
                    f"{name}={checked[name]}, and only {min(limits)} different answers are legal: ask for at most "
                    f"{min(limits)}, or call recommend."
                )
        constraints = [kwargs.get("custom_generate"), *(logits_processor or ())]
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
