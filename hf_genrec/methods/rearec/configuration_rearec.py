"""Configuration of ReaRec (arXiv 2503.22675): sequential recommenders that reason in latent steps before they rank."""

import math
import sys

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number
from ...catalogue.transformers_bridge import PreTrainedConfig
from ...decoding.attention import require_layer_settings
from .rearec_choices import BACKBONES, DEPTH_RULES, LOSSES, REASONING, SAMPLING

COUNTS = (
    "num_items",
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_experts",
    "num_negatives",
)
WEIGHTS = (
    "layer_norm_eps",
    "initializer_range",
    "kl_weight",
    "temperature",
    "temperature_scale",
    "progressive_weight",
    "contrastive_weight",
    "noise_scale",
)
MAX_STEPS = 10_000  # of reasoning; published: 1 to 5


class ReaRecConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`ReaRecModel`] and [`ReaRecForNextItem`].

    > Backbone

    Args:
        num_items (`int`, defaults to 1):
            N, the items of the catalogue. Row N of the item table is PAD.
        max_history (`int`, defaults to 50):
            Newest history items that are read.
        backbone (`str`, defaults to `"sasrec"`):
            `"sasrec"`: causal attention; `"bert4rec"`: items attend to all items, the reasoning steps are causal;
            `"unisrec"` and `"morec"`: causal, item vectors made from text embeddings by a mixture of experts or a small
            network.
        hidden_size (`int`, defaults to 256):
            d, the length of item vectors and states.
        intermediate_size (`int`, defaults to 300):
            Inner size of the feed-forward layers.
        num_hidden_layers (`int`, defaults to 2):
            Transformer layers.
        num_attention_heads (`int`, defaults to 2):
            Heads of each layer.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers; `"gelu"` is the exact one (erf).
        layer_norm_eps (`float`, defaults to 1e-12):
            Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        embedding_dropout (`float`, defaults to 0.2):
            Dropout of what enters the first layer, items and reasoning steps alike.
        hidden_dropout (`float`, defaults to 0.5):
            Dropout of what each attention and feed-forward layer adds.
        attention_dropout (`float`, defaults to 0.5):
            Dropout of the attention probabilities.

    > Text

    Args:
        item_vector_size (`int`, *optional*):
            D, the length of an item's text embedding. Needed by `"unisrec"` and `"morec"`, and by them only.
        num_experts (`int`, defaults to 8):
            Experts of UniSRec's adaptor.
        adaptor_dropout (`float`, defaults to 0.2):
            Dropout of the text embeddings that UniSRec's experts read.

    > Reasoning

    Args:
        reasoning (`str`, defaults to `"prl"`):
            `"none"`: r_0 is ranked; `"naive"`: the last state is fed back K times and the loss is on r_K; `"rpe"`: the
            same with reasoning position embeddings; `"erl"`: ensemble, the mean of r_0..r_K is ranked and their
            distributions are pushed apart; `"prl"`: progressive, every state has a loss, at a temperature that falls
            from step to step.
        num_reasoning_steps (`int`, defaults to 2):
            K. Not read where `reasoning="none"`.
        reasoning_adapter_size (`int`, defaults to 0):
            Inner size of an adapter behind each layer through which reasoning steps alone pass; 0 (published) has none,
            and steps share all weights with the items.
        kl_weight (`float`, defaults to 0.05):
            ERL: lambda, weight of the divergence between the states' distributions.
        temperature_scale (`float`, defaults to 5.0):
            PRL: alpha; state k of K is trained at `temperature * alpha**(K - k)`.
        progressive_weight (`float`, defaults to 1.0):
            PRL: weight of the mean loss of r_0..r_{K-1}.
        contrastive_weight (`float`, defaults to 1.0):
            PRL: weight of the contrast between noised and clean states (RCL).
        noise_scale (`float`, defaults to 0.01):
            PRL: gamma, standard deviation of RCL's noise (the published code's reading; the paper prints a variance).

    > Adaptive depth, for [`recommend`] and its like; chosen on validation users by `hf-genrec calibrate-depth`

    Args:
        depth_rule (`str`, *optional*):
            How many steps a user gets: `"kl"`, `"halting"` or `"confidence"`, see `adaptive_depth.py`; `None` gives
            everybody K.
        depth_threshold (`float`, defaults to 0.0):
            A user whose number by the rule is below it takes no further step.

    > Loss

    Args:
        temperature (`float`, defaults to 0.07):
            tau; scores are divided by it.
        loss_type (`str`, defaults to `"softmax"`):
            `"softmax"`: over all items and PAD; `"sampled_softmax"`: over the target and negatives that the batch
            shares, corrected for how often each is drawn; `"bce"`: binary cross-entropy of the target and of negatives
            drawn for each target.
        num_negatives (`int`, defaults to 1):
            Negatives of `"sampled_softmax"` (per batch) and `"bce"` (per target).
        negative_sampling (`str`, defaults to `"uniform"`):
            How `"sampled_softmax"` draws: `"uniform"` without repetition, or by `"popularity"` with it. `"bce"` draws
            uniformly.

    Example:

    ```python
    >>> from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem

    >>> model = ReaRecForNextItem(ReaRecConfig(num_items=12101, hidden_size=64, intermediate_size=256))
    ```
    """

    model_type = "rearec"
    settings_of_processor = ("max_history", "num_items")  # equal in both, or the folder is refused
    keys_to_ignore_at_inference = ["losses", "reasoning_states"]  # noqa: RUF012

    num_items: int = 1
    max_history: int = 50
    backbone: str = "sasrec"
    hidden_size: int = 256
    intermediate_size: int = 300
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    embedding_dropout: float = 0.2
    hidden_dropout: float = 0.5
    attention_dropout: float = 0.5
    item_vector_size: int | None = None
    num_experts: int = 8
    adaptor_dropout: float = 0.2
    reasoning: str = "prl"
    num_reasoning_steps: int = 2
    reasoning_adapter_size: int = 0
    kl_weight: float = 0.05
    temperature_scale: float = 5.0
    progressive_weight: float = 1.0
    contrastive_weight: float = 1.0
    noise_scale: float = 0.01
    depth_rule: str | None = None
    depth_threshold: float = 0.0
    temperature: float = 0.07
    loss_type: str = "softmax"
    num_negatives: int = 1
    negative_sampling: str = "uniform"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens a
        # folder that ReaRecForNextItem has saved.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_rearec.ReaRecConfig",
                "AutoModel": "modeling_rearec.ReaRecModel",
                "AutoModelForSequenceClassification": "modeling_rearec.ReaRecForNextItem",
                "AutoProcessor": "processing_rows.ItemProcessor",
            }
        self._check()

    def _check(self):
        for name, choices in (
            ("backbone", BACKBONES),
            ("reasoning", REASONING),
            ("loss_type", LOSSES),
            ("negative_sampling", SAMPLING),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(choices)}.")
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for name in ("embedding_dropout", "hidden_dropout", "attention_dropout", "adaptor_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in WEIGHTS:
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("num_reasoning_steps", self.num_reasoning_steps, 0, MAX_STEPS)
        require_number("reasoning_adapter_size", self.reasoning_adapter_size, 0)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)
        if self.reasoning != "none" and self.num_reasoning_steps < 1:
            raise ValueError(
                f"num_reasoning_steps={self.num_reasoning_steps}: give at least 1, or set reasoning='none'."
            )
        if self.reasoning_adapter_size < 0 or (self.reasoning_adapter_size and self.reasoning == "none"):
            raise ValueError(
                f"reasoning_adapter_size={self.reasoning_adapter_size} with reasoning={self.reasoning!r}: give at "
                f"least 0, and 0 to a model without reasoning steps."
            )
        if self.temperature <= 0 or self.temperature_scale <= 0:
            raise ValueError(
                f"temperature={self.temperature}, temperature_scale={self.temperature_scale}: both must be above 0."
            )
        if self.reads_text != (self.item_vector_size is not None):
            raise ValueError(
                f"backbone={self.backbone!r} with item_vector_size={self.item_vector_size}: give the length of the "
                f"text embeddings for unisrec and morec, and None for the others."
            )
        # Uniform draws take each of the N items and PAD at most once.
        distinct = self.loss_type == "sampled_softmax" and self.negative_sampling == "uniform"
        if distinct and self.num_negatives > self.num_items + 1:
            raise ValueError(
                f"num_negatives={self.num_negatives}, but items and PAD are {self.num_items + 1} classes: "
                f"set loss_type='softmax'."
            )
        self.check_depth()

    def check_depth(self):
        """
        Raises:
            ValueError: for a rule of adaptive depth that is not known or has no steps to decide on.
        """
        if self.depth_rule is None:
            return
        if self.depth_rule not in DEPTH_RULES:
            raise ValueError(f"depth_rule={self.depth_rule!r}: use one of {', '.join(DEPTH_RULES)}, or None.")
        if self.reasoning == "none":
            raise ValueError(f"depth_rule={self.depth_rule!r} with reasoning='none': there are no steps to stop at.")
        if math.isnan(self.depth_threshold):
            raise ValueError("depth_threshold is NaN: give a number, 0 to stop nobody by 'kl'.")

    @property
    def reads_text(self) -> bool:
        """Whether item vectors are made from text embeddings."""
        return self.backbone in ("unisrec", "morec")

    @property
    def steps(self) -> int:
        """K, 0 without reasoning."""
        return 0 if self.reasoning == "none" else self.num_reasoning_steps

    @property
    def num_labels(self) -> int:
        """One class per catalogue row; `id2label` would be N strings in the file, and the processor knows the ids."""
        return self.num_items

    @num_labels.setter
    def num_labels(self, num_labels: int):
        if num_labels != self.num_items:
            raise ValueError(f"num_labels={num_labels}, but there is one class per item: num_items={self.num_items}.")

    @classmethod
    def from_published(cls, case: dict) -> "ReaRecConfig":
        """
        Configuration of a model trained with the published ReaRec code.

        Args:
            case: facts of a run: `method`, `reason_steps`, `n_items`, `max_len`, `dropout`, `attention` (`"causal"` or
                `"prefix (bidirectional items)"`), and under `config` the published code's own settings.

        Raises:
            ValueError: for a method, an attention or a setting that is not known.
        """
        methods = {"base": "none"} | {name: name for name in REASONING if name != "none"}
        backbones = {"causal": "sasrec", "prefix (bidirectional items)": "bert4rec"}
        names = {
            "temperature": "temperature",
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "hidden_size": "hidden_size",
            "inner_size": "intermediate_size",
            "hidden_act": "hidden_act",
            "layer_norm_eps": "layer_norm_eps",
            "kl_weight": "kl_weight",
            "temp_scale": "temperature_scale",
            "noise_factor": "noise_scale",
            "pl_weight": "progressive_weight",
            "cl_weight": "contrastive_weight",
        }
        unknown = sorted(case["config"].keys() - names.keys())
        if case["method"] not in methods or case["attention"] not in backbones or unknown:
            raise ValueError(
                f"method={case['method']!r}, attention={case['attention']!r}, unknown settings {unknown}: give a "
                f"method of {', '.join(methods)}, an attention of {', '.join(backbones)}, settings of "
                f"{', '.join(names)}."
            )
        return cls(
            num_items=case["n_items"],
            max_history=case["max_len"],
            backbone=backbones[case["attention"]],
            reasoning=methods[case["method"]],
            num_reasoning_steps=case["reason_steps"],
            embedding_dropout=case["dropout"],
            hidden_dropout=case["dropout"],
            attention_dropout=case["dropout"],
            **{names[name]: value for name, value in case["config"].items()},
        )


ReaRecConfig.register_for_auto_class()

__all__ = ["ReaRecConfig"]
