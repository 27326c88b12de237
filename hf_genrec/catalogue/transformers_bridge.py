"""What the files of a saved folder take from transformers beyond its documented interface, in one place.

A folder outlives the version it was saved with. Names that transformers does not promise to keep are imported from
here (docs/versions.md says what each is for), and whoever opens the folder with a version that lacks one is told so in
one line. transformers 5.24 renamed `past_key_values` to `cache`: our own code says `cache`, [`CACHE`] is what the
installed version says.
"""

import functools
import inspect
from importlib import import_module
from importlib.metadata import version
from typing import Any

import transformers
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput

OLDEST = (5, 23)
TESTED = {"transformers": "5.23.0 to 5.24.0", "trl": "1.15.0 to 1.16.0"}
CACHE_NAMES = ("cache", "past_key_values")

# module of transformers by name; a module by its own
PLACES = {
    "ACT2FN": "activations",
    "DynamicLayer": "cache_utils",
    "PreTrainedConfig": "",
    "Qwen2Attention": "models.qwen2.modeling_qwen2",
    "Qwen2DecoderLayer": "models.qwen2.modeling_qwen2",
    "Qwen2MLP": "models.qwen2.modeling_qwen2",
    "Qwen2RMSNorm": "models.qwen2.modeling_qwen2",
    "T5Attention": "models.t5.modeling_t5",
    "T5LayerFF": "models.t5.modeling_t5",
    "T5Stack": "models.t5.modeling_t5",
    "cached_file": "utils",
    "eager_attention_forward": "models.qwen2.modeling_qwen2",
    "initialization": "initialization",
    "repeat_kv": "models.qwen2.modeling_qwen2",
    "rotate_half": "models.qwen2.modeling_qwen2",
}


def refused(needed: str, package: str = "transformers") -> ImportError:
    """The one line for a version of a package that lacks something."""
    newest = TESTED[package].split()[-1]
    return ImportError(
        f"{package} {version(package)} is installed, and this code needs {needed} (tested: {TESTED[package]}): install "
        f"{package}=={newest}, or a newer hf_genrec, whose `hf-genrec refresh FOLDER` puts its code beside saved "
        f"weights."
    )


if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
    raise refused(f"{'.'.join(map(str, OLDEST))} or newer")

_in_outputs = [name for name in CACHE_NAMES if name in BaseModelOutputWithPast.__dataclass_fields__]
if not _in_outputs:
    raise refused(f"outputs with {' or '.join(CACHE_NAMES)}")
CACHE = _in_outputs[0]  # as the installed version's models, layers and outputs call it
_OTHER = CACHE_NAMES[1 - CACHE_NAMES.index(CACHE)]


def __getattr__(name: str) -> Any:
    """A name of [`PLACES`], when it is imported from here."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = ".".join(filter(None, ("transformers", PLACES[name])))
    try:
        return import_module(place) if place.endswith(f".{name}") else getattr(import_module(place), name)
    except (ImportError, AttributeError):
        raise refused(f"{place}.{name}") from None


def overrides(*names: str):
    """
    Class decorator: these methods stand in for those of a base class, which calls them by the same arguments.

    Raises:
        ImportError: if no base class has one of them, or takes other arguments.
    """

    def check(cls):
        for name in names:
            of_base = getattr(super(cls, cls), name, None)
            ours = inspect.signature(getattr(cls, name)).parameters.values()
            wanted = [part.name for part in ours if part.kind == part.POSITIONAL_OR_KEYWORD and part.name != "self"]
            if of_base is None or not set(wanted) <= set(inspect.signature(of_base).parameters):
                packages = (base.__module__.split(".")[0] for base in cls.__mro__)
                package = next(package for package in packages if package in TESTED)
                raise refused(f"{name}({', '.join(wanted)}) in a base class of {cls.__name__}", package)
        return cls

    return check


def takes_cache(method):
    """A method with an argument `cache`, which callers may name as transformers before 5.24 does."""

    @functools.wraps(method)
    def renamed(*args, **kwargs):
        other = kwargs.pop("past_key_values", None)
        if other is not None:
            if kwargs.get("cache") is not None:
                raise ValueError("cache and past_key_values are two names of one argument: give one.")
            kwargs["cache"] = other
        return method(*args, **kwargs)

    # `generate` takes what stands in the signature.
    signature = inspect.signature(method)
    other = inspect.Parameter("past_key_values", inspect.Parameter.KEYWORD_ONLY, default=None)
    ours = list(signature.parameters.values())
    renamed.__signature__ = signature.replace(parameters=[*ours[:-1], other, ours[-1]])  # type: ignore[attr-defined]
    return renamed


def returns_tuples(forward):
    """
    A model's `forward`, which gives a tuple where it is called with `return_dict=False`. Inside, outputs are read by
    name: what the configuration says of `return_dict` counts for nobody.
    """

    @functools.wraps(forward)
    def called(self, *args, return_dict: bool | None = None, **kwargs):
        output = forward(self, *args, **kwargs)
        return output.to_tuple() if return_dict is False else output

    return called


class CacheByBothNames(ModelOutput):
    """Placed before an output class of transformers: its cache can be read as `cache` and as `past_key_values`."""

    def __getitem__(self, key):
        return super().__getitem__(CACHE if key == _OTHER else key)

    def __contains__(self, key):
        return super().__contains__(CACHE if key == _OTHER else key)

    def get(self, key, default=None):
        return super().get(CACHE if key == _OTHER else key, default)


setattr(
    CacheByBothNames,
    _OTHER,
    property(lambda output: getattr(output, CACHE), lambda output, value: setattr(output, CACHE, value)),
)
