"""Arguments of the model and of its training."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments


@dataclass
class CareArguments:
    """
    The CARE model: from scratch at the given size, or from a pretrained Qwen2 / Qwen2.5 folder.

    Raises:
        ValueError: for sizes that do not fit together, with what to write instead.
    """

    method: Literal["care"] = field(default="care", metadata={"help": "what is trained: care or rearec"})
    base_model: str | None = field(
        default=None,
        metadata={"help": "pretrained Qwen2/Qwen2.5 folder or name; null builds the sizes below from scratch"},
    )
    hidden_size: int = field(default=128, metadata={"help": "from scratch: width of the hidden states"})
    intermediate_size: int = field(default=256, metadata={"help": "from scratch: width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "from scratch: layers"})
    num_attention_heads: int = field(
        default=4, metadata={"help": "from scratch: attention heads (as many key/value heads)"}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of the attention weights"})
    hidden_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the embeddings and of what each layer adds to them"}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the target that the loss spreads over all codes"}
    )
    code_embeddings: Literal["random", "centroids"] = field(
        default="random",
        metadata={"help": "from scratch: code embeddings start random, or as the item tokenizer's centroids"},
    )
    tie_word_embeddings: bool = field(
        default=True, metadata={"help": "from scratch: one table for input and output codes"}
    )
    num_queries: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "query tokens before each code; one number stands for every code"},
    )
    progressive: list[bool] = field(
        default_factory=lambda: [True],
        metadata={
            "help": "per code: its queries see only the history codes up to its level; one value stands for every code"
        },
    )
    query_diversity_weight: float = field(
        default=0.1, metadata={"help": "weight of the query diversity term in the loss"}
    )

    def __post_init__(self) -> None:
        if self.base_model is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}: "
                f"change one"
            )
        if self.code_embeddings not in ("random", "centroids"):
            raise ValueError(f"code_embeddings: {self.code_embeddings!r} is not one of random, centroids")
        if self.code_embeddings == "centroids" and self.base_model is not None:
            raise ValueError("code_embeddings: centroids starts a model from scratch: leave base_model out")
        if not self.num_queries or min(self.num_queries) < 0:
            raise ValueError(
                f"num_queries {self.num_queries}: give [n] for every code, or one number (0 or more) per code"
            )
        if not self.progressive:
            raise ValueError("progressive is empty: give [true] for every code, or one value per code")


@dataclass
class GenRecTrainingArguments(TrainingArguments):
    """
    Transformers' `TrainingArguments` with the defaults of this library and what generative recommenders add: which
    targets are trained, how the best checkpoint is found. `output_dir` is the run folder.
    """

    output_dir: str | None = field(
        default=None, metadata={"help": "run folder: data, codes, checkpoints, model and results"}
    )
    targets: str = field(
        default="all", metadata={"help": "train on every prefix (all) or on the newest item only (last)"}
    )
    eval_users: int | None = field(
        default=None, metadata={"help": "validation users, drawn once, that choose the best checkpoint; null takes all"}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "evaluations without a better NDCG@10 before training stops; null never stops early"},
    )
    packing: bool = field(
        default=True,
        metadata={
            "help": "read a user's history once for all its targets (care: several users a row); or a row per target"
        },
    )
    packed_row_tokens: int = field(default=256, metadata={"help": "care, packing: the most tokens of a row"})
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "rows per step and process: packed ones, or without packing one per target"}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "histories decoded at a time in evaluation"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "schedule of the learning rate"})
    warmup_steps: float = field(
        default=0.02, metadata={"help": "steps, or below 1 the share of all steps, of rising rate"}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate on the validation split"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept, the best one among them"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the checkpoint of the best NDCG@10"})
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "what the best checkpoint is best in"}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "whether a larger metric is better"})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "batches of rows with similar histories (group_by_length), or random ones (random)"},
    )
    logging_steps: float = field(default=50, metadata={"help": "steps between two lines of the log"})
    project: str = field(default="hf_genrec", metadata={"help": "trackio: project the run is logged under"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked batches; only useful with a GPU"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator needs history and target"})

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: name the run folder, for instance runs/care-ml-100k")
        if self.targets not in ("all", "last"):
            raise ValueError(f"targets: {self.targets!r} is not one of all, last")
        if self.label_smoothing_factor:
            # Trainer's own smoothing does not know which row predicts which code.
            raise ValueError("label_smoothing_factor: use label_smoothing, the model's own")
        if self.packed_row_tokens < 1:
            raise ValueError(f"packed_row_tokens must be at least 1, not {self.packed_row_tokens}")
        super().__post_init__()
