"""What is known of a saved model before its weights are read: whether its configuration and its weights fit."""

import dataclasses
import difflib
import math
import os
import re
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from .saved_files import DamagedFile, hub_place, naming, read_json, saved_file

WEIGHTS_FILE = "model.safetensors"
# What would have transformers read other files or code than those of the folder, or change what the model returns.
FOREIGN_SETTINGS = {
    "attn_implementation": None,
    "distributed_config": None,
    "experts_implementation": None,
    "fusion_config": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "quantization_config": None,
    "return_dict": True,
    "transformers_weights": None,
}
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}


class StoredWeight(NamedTuple):
    """A tensor as the header of its file describes it."""

    path: str
    shape: tuple[int, ...]
    dtype: str


def read_config(config_class: Any, folder: Any, **place: Any) -> Any:
    """
    The configuration of a saved folder, of one class.

    Raises:
        DamagedFile: if config.json is damaged, of another class, or has settings that the class refuses.
        OSError: if there is none.
    """
    path = saved_file(folder, "config.json", **place)
    content = read_json(str(path))
    with naming(path):
        kind = content.get("model_type")
        if kind != config_class.model_type:
            raise ValueError(f"it is of a model of type {kind!r}, and {config_class.model_type!r} is expected")
        for name, usual in FOREIGN_SETTINGS.items():
            if name in content and content[name] not in (usual, None):
                raise ValueError(f"it sets {name}, which a saved model of this kind has not")
        settings = {setting.name for setting in dataclasses.fields(config_class)}
        for name in content.keys() - settings:
            # Another version's setting may be unknown here; one that stands for a missing one is misspelt.
            meant = difflib.get_close_matches(name, settings - content.keys(), n=1, cutoff=0.8)
            if meant:
                raise ValueError(f"it sets {name!r}, did you mean {meant[0]!r}?")
        for setting in dataclasses.fields(config_class):
            value = content.get(setting.name, setting.default)
            if isinstance(setting.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{setting.name} is {value!r}, and must be true or false")
        config = config_class.from_dict({name: _special_float(value) for name, value in content.items()})
        for name, value in vars(config).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and math.isnan(number):
                    raise ValueError(f"{name} is NaN")
    return config


def _special_float(value: Any) -> Any:
    """Infinity as transformers writes it into a JSON file."""
    if isinstance(value, dict) and value.keys() == {"__float__"}:
        return float(value["__float__"])
    return value


def require_agreement(config: Any, processor: Any) -> None:
    """
    Raises:
        ValueError: if a model's configuration says something else than its processor, of the settings that the
        configuration's class names in `settings_of_processor`.
    """
    for name in getattr(config, "settings_of_processor", ()):
        value = len(processor.item_ids) if name == "num_items" else getattr(processor, name)
        of_config = getattr(config, name)
        if of_config is not None and of_config != value:
            raise ValueError(f"{name} is {of_config}, and the processor beside it says {value}")
    if hasattr(processor, "tokenizer"):
        pad = processor.tokenizer.pad_token_id
        if pad is not None and getattr(config, "pad_token_id", None) not in (None, pad):
            raise ValueError(f"pad_token_id is {config.pad_token_id}, and the tokenizer beside it says {pad}")
        ids = [processor.answer_token_id, pad or 0, *map(max, processor.code_token_ids)]
        if not max(ids) < config.vocab_size:
            raise ValueError(f"vocab_size is {config.vocab_size}, and the tokenizer beside it has token {max(ids)}")


def stored_weights(folder: Any, variant: str | None = None, **place: Any) -> dict[str, StoredWeight]:
    """
    The weights of a saved folder by name, from the headers of their files.

    Raises:
        DamagedFile: if a file is truncated or damaged, or the index of several files is wrong.
        OSError: if one is missing.
    """
    name = WEIGHTS_FILE if variant is None else f"model.{variant}.safetensors"
    single = saved_file(folder, name, required=False, **place)
    if single is not None:
        return _header(single)
    index = saved_file(folder, f"{name}.index.json", required=False, **place)
    if index is None:
        saved_file(folder, name, **place)  # says that there is none
    content = read_json(str(index))
    with naming(index):
        places = content["weight_map"]
        files = sorted(set(places.values()))
        for file in files:
            if os.path.basename(file) != file or not file.endswith(".safetensors"):
                raise ValueError(f"{file!r} is no file of the folder")
    found: dict[str, StoredWeight] = {}
    for file in files:
        of_file = _header(str(saved_file(folder, file, **place)))
        with naming(index):
            if of_file.keys() != {weight for weight, place_of in places.items() if place_of == file}:
                raise ValueError(f"{file} holds other weights than it says")
        found |= of_file
    return found


def _header(path: str) -> dict[str, StoredWeight]:
    with naming(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: StoredWeight(path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def require_weights(model_class: Any, config: Any, folder: Any, kwargs: dict[str, Any]) -> dict[str, StoredWeight]:
    """
    Raises, before anything is allocated, if the weights of a saved folder are not those of its configuration.

    Args:
        kwargs: those of a `from_pretrained`, of which `variant` and those of [`hub_place`] are read.

    Returns:
        the stored weights by name.

    Raises:
        DamagedFile: for a damaged file, a size that the weights cannot have, or a weight that is missing, left over,
        of another shape or of another kind of numbers.
        OSError: if a file is missing.
    """
    place = hub_place(kwargs)
    found = stored_weights(folder, kwargs.get("variant"), **place)
    config_path = saved_file(folder, "config.json", required=False, **place) or folder
    with naming(config_path):
        _require_buildable(config, len(found))
        with torch.device("meta"):
            model = model_class(config)
    expected = model.state_dict()
    tied = getattr(model, "_tied_weights_keys", None) or {} if getattr(config, "tie_word_embeddings", False) else {}
    spare = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []) or r"(?!)")
    where = next(iter(found.values())).path if found else str(folder)
    lacking = sorted(name for name in expected.keys() - found.keys() if name not in tied)
    if lacking:
        raise DamagedFile(f"{where} lacks weights of the model: {_some(lacking)}: save or download it again.")
    surplus = sorted(name for name in found.keys() - expected.keys() if not spare.search(name))
    if surplus:
        raise DamagedFile(f"{where} holds weights that the model has not: {_some(surplus)}: save or download it again.")
    dtype = getattr(config, "dtype", None)
    if dtype is not None and not any(FLOATS.get(weight.dtype) == dtype for weight in found.values()):
        raise DamagedFile(f"{config_path} is damaged (dtype is {dtype}, and no weight is): save or download it again.")
    for name, (path, shape, stored) in found.items():
        if name not in expected:
            continue
        with naming(path):
            if shape != tuple(expected[name].shape):
                raise ValueError(
                    f"weight {name} has shape {shape}, and config.json makes it {tuple(expected[name].shape)}"
                )
            _require_dtype(name, stored, expected[name].dtype, dtype)
    return found


def _require_buildable(config: Any, num_weights: int) -> None:
    """Refuses numbers of layers that would keep the machine busy for hours."""
    for name, value in vars(config).items():
        number = len(value) if isinstance(value, list) else value
        counts = isinstance(value, list) or (name.startswith("num_") and name.endswith("layers"))
        if counts and isinstance(number, int) and number > max(200, num_weights):
            raise ValueError(f"{name} asks for {number:,}, and the weights are {num_weights:,} tensors")


def _require_dtype(name: str, stored: str, expected: torch.dtype, dtype: Any) -> None:
    if not expected.is_floating_point:
        fits = INTEGERS.get(stored) == expected
    else:
        # Buffers that are kept in float32 stand beside weights of fewer bits.
        fits = stored in FLOATS and (dtype is None or FLOATS[stored] in (dtype, torch.float32))
    if not fits:
        raise ValueError(f"weight {name} holds numbers of type {stored}, and the model is {dtype or expected}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def require_finite(model: torch.nn.Module, found: dict[str, StoredWeight], folder: Any) -> None:
    """
    Infinity is allowed to the buffers that a module names in `may_be_infinite`.

    Raises:
        DamagedFile: if a weight of the model holds NaN or infinity; names the file and the weight.
    """
    for prefix, module in model.named_modules():
        spared = getattr(module, "may_be_infinite", ())
        for own, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.is_meta or not tensor.is_floating_point() or tensor.detach().sum(dtype=torch.float64).isfinite():
                continue
            if not (tensor.isnan() if own in spared else ~tensor.isfinite()).any():
                continue
            name = f"{prefix}.{own}" if prefix else own
            where = found[name].path if name in found else f"{folder}/config.json"
            raise DamagedFile(f"{where} is damaged ({name} holds NaN or infinity): save or download it again.")
