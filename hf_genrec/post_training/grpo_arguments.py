"""Arguments of post-training by GRPO."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from trl import GRPOConfig

from hf_genrec.post_training.grpo_keys import GRPO_KINDS
from hf_genrec.training.arguments import check_rows_and_metric, check_training, join_processes, use_one_gpu
from hf_genrec.training.config import parse_arguments
from hf_genrec.training.option_help import option_help, own_fields

# Of TRL's sampling options, what leaves the policy's distribution as it is, and what the sampler here cannot do.
UNUSED: dict[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
    "cache_implementation": None,
    "use_vllm": False,
    "use_transformers_continuous_batching": False,
    "mask_truncated_completions": False,
    "sync_ref_model": False,
    "cast_lm_head_to_fp32": False,
    "log_completions": False,
}


@dataclass
class GRPOArguments(GRPOConfig):
    """
    TRL's `GRPOConfig` with the defaults of this library and what generative recommenders add: the run to start from,
    the rewards, how the best checkpoint is found. `output_dir` is the run folder of the result.

    Of TRL's fields, `num_generations` is the group size G, `temperature` that of the samples and of the
    log-probabilities, `epsilon` the clipping, which acts from the second of `num_iterations` steps on the same samples
    on, `beta` the weight of the divergence from the model it starts from, `reward_weights` has a weight for each of
    `rewards`. The batch size counts samples: it is a multiple of G.

    Raises:
        ValueError: for values that do not fit together, or an option of TRL that has no meaning here.
    """

    method: Literal["grpo"] = field(default="grpo", metadata={"help": "post-training: grpo"})
    pretrained: str | None = field(default=None, metadata={"help": "run folder whose model and data are taken"})
    output_dir: str | None = field(default=None, metadata={"help": "run folder: checkpoints, model and results"})
    rewards: list[str] = field(
        default_factory=lambda: ["hit", "prefix"],
        metadata={
            "help": "any of hit, rank; for ordered codes prefix; for thinking tokens format, similarity, likelihood "
            "and thinking_rank; for sets of codes step_hit, category_hit, consistency and path; summed "
            "with reward_weights"
        },
    )
    horizon: int = field(
        default=1, metadata={"help": "next items of the user that count as targets; the first counts most"}
    )
    horizon_decay: float = field(default=0.8, metadata={"help": "weight of a target against that of the one before it"})
    ratio: str = field(
        default="code",
        metadata={
            "help": "whose probability is compared with that of the policy that sampled, and clipped: each code's "
            "(code), or the whole path's (path)"
        },
    )
    path_top_n: int = field(default=10, metadata={"help": "path: the target is among so many items"})
    path_errors: int = field(default=2, metadata={"help": "path: wrong codes that are left out of the path at most"})
    targets: str = field(default="all", metadata={"help": "prompts: every prefix (all) or the newest item's (last)"})
    lora_r: int | None = field(default=None, metadata={"help": "rank of LoRA adapters; null trains all weights"})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA: scale of the adapters times their rank"})
    layer_precision: str | None = field(
        default=None,
        metadata={"help": "of linear layers in training: adaptive, bf16 or fp8; null computes in float32"},
    )
    layer_precision_steps: int = field(default=50, metadata={"help": "adaptive: steps from one decision to the next"})
    layer_precision_budget: float = field(
        default=1e-4, metadata={"help": "adaptive: the most that the estimated loss may grow, in nats per code"}
    )
    eval_users: int | None = field(
        default=None, metadata={"help": "validation users, drawn once, that choose the best checkpoint; null takes all"}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "evaluations without a better NDCG@10 before training stops; null never stops early"},
    )

    # ---- TRL's fields with other defaults ----
    num_generations: int | None = field(default=16, metadata={"help": "G, samples of each prompt"})
    num_generations_eval: int | None = field(default=1, metadata={"help": "not used: evaluation recommends"})
    per_device_train_batch_size: int = field(default=512, metadata={"help": "samples per step and process"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "histories decoded at a time in evaluation"})
    temperature: float = field(default=1.0, metadata={"help": "divides the logits of the policy"})
    beta: float = field(default=0.01, metadata={"help": "weight of the divergence from the model it starts from"})
    epsilon: float = field(default=0.15, metadata={"help": "clipping of the probability ratios"})
    loss_type: str = field(default="grpo", metadata={"help": "TRL's name of the loss; all answers have equal lengths"})
    learning_rate: float = field(default=3e-5, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "schedule of the learning rate"})
    warmup_steps: float = field(
        default=10, metadata={"help": "steps, or below 1 the share of all steps, of rising rate"}
    )
    max_steps: int = field(default=200, metadata={"help": "optimisation steps; -1 goes by num_train_epochs"})
    disable_dropout: bool = field(default=True, metadata={"help": "train without the model's dropout"})
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "old name of activation_checkpointing"}
    )
    activation_checkpointing: bool | None = field(
        default=False, metadata={"help": "recompute activations to save memory"}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=False, metadata={"help": "mixed precision of the whole model"}
    )
    eval_strategy: str = field(default="steps", metadata={"help": "when to evaluate on the validation split"})
    eval_steps: float | None = field(default=50, metadata={"help": "steps between evaluations"})
    eval_on_start: bool = field(default=True, metadata={"help": "evaluate the model it starts from"})
    save_strategy: str = field(default="steps", metadata={"help": "when to save a checkpoint"})
    save_steps: float = field(default=50, metadata={"help": "steps between checkpoints"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept, the best one among them"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the checkpoint of the best NDCG@10"})
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "what the best checkpoint is best in"}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "whether a larger metric is better"})
    project: str = field(default="hf_genrec", metadata={"help": "trackio: project the run is logged under"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked batches; only useful with a GPU"}
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: name the run folder, for instance runs/grpo-ml-100k")
        if self.targets not in ("all", "last"):
            raise ValueError(f"targets: {self.targets!r} is not one of all, last")
        if self.ratio not in ("code", "path"):
            raise ValueError(f"ratio: {self.ratio!r} is not one of code, path")
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ValueError(f"rewards {self.rewards}: name at least one, and none twice")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.rewards):
            raise ValueError(f"reward_weights has {len(self.reward_weights)} numbers for {len(self.rewards)} rewards")
        if self.num_generations is None:
            raise ValueError("num_generations: null is no size of a group: give at least 2, or leave it out")
        if self.horizon < 1 or not 0 < self.horizon_decay <= 1:
            raise ValueError(
                f"horizon {self.horizon}, horizon_decay {self.horizon_decay}: give at least 1, and above 0 to 1"
            )
        if self.path_top_n < 1 or self.path_errors < 0:
            raise ValueError(f"path_top_n {self.path_top_n}, path_errors {self.path_errors}: give 1 or more, 0 or more")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: give a number above 0")
        for name in ("beta", "epsilon", "layer_precision_budget"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: give a number, 0 or more")
        if not all(map(math.isfinite, self.reward_weights or [])):
            raise ValueError(f"reward_weights {self.reward_weights}: give numbers")
        if self.lora_r is not None and self.lora_r < 1:
            raise ValueError(f"lora_r {self.lora_r}: give a whole number, at least 1, or null to train all weights")
        if self.layer_precision not in (None, "adaptive", "bf16", "fp8"):
            raise ValueError(f"layer_precision: {self.layer_precision!r} is not one of adaptive, bf16, fp8, null")
        if self.layer_precision is not None and (self.bf16 or self.fp16):
            raise ValueError("layer_precision sets the precision layer by layer: leave bf16 and fp16 out")
        if self.layer_precision_steps < 1:
            raise ValueError(f"layer_precision_steps {self.layer_precision_steps}: give a whole number, at least 1")
        for name, neutral in UNUSED.items():
            if getattr(self, name) != neutral:
                raise ValueError(f"{name}: answers are sampled from the whole policy under the trie, leave it out")
        join_processes(self)
        super().__post_init__()
        use_one_gpu(self)
        check_rows_and_metric(self)
        check_training(self)
        if self.per_device_train_batch_size * int(self.steps_per_generation or 0) % int(self.num_generations or 0):
            raise ValueError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} times steps_per_generation "
                f"{self.steps_per_generation} is no multiple of num_generations {self.num_generations}: change one"
            )


def parse_grpo_config(name_or_path: str | None, overrides: list[str] | None = None) -> GRPOArguments:
    """
    `parse_config` for post-training, which takes its data and the sizes of its model from the run it starts from.
    """
    (arguments,) = parse_arguments(name_or_path, overrides, GRPO_KINDS, "grpo")
    return arguments


def grpo_options() -> str:
    """The keys of post-training, for people."""
    return option_help({"Post-training (and all of TRL's GRPOConfig)": own_fields(GRPOArguments)})
