"""The keys of ReaRec that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hf_genrec.methods.rearec.rearec_choices import BACKBONES, LOSSES, REASONING, SAMPLING


@dataclass
class ReaRecArguments:
    """
    The ReaRec model: what a user sets of `ReaRecConfig`, with its names and defaults, the length of the text
    embeddings, when the noise of PRL begins, and what the backbone starts from.

    Raises:
        ValueError: for values that `ReaRecConfig` refuses, or settings of the text for a backbone that reads none, or
            a pretraining for one that does.
    """

    method: Literal["rearec"] = field(default="rearec", metadata={"help": "what is trained"})
    backbone: str = field(
        default="sasrec",
        metadata={"help": f"one of {', '.join(BACKBONES)}; unisrec and morec make item vectors from the items' text"},
    )
    hidden_size: int = field(default=256, metadata={"help": "length of item vectors and states"})
    intermediate_size: int = field(default=300, metadata={"help": "width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers"})
    num_attention_heads: int = field(default=2, metadata={"help": "attention heads"})
    embedding_dropout: float = field(default=0.2, metadata={"help": "dropout of what enters the first layer"})
    hidden_dropout: float = field(default=0.5, metadata={"help": "dropout of what each layer adds"})
    attention_dropout: float = field(default=0.5, metadata={"help": "dropout of the attention weights"})
    text_dim: int | None = field(
        default=None,
        metadata={"help": "unisrec, morec: principal components of the text embeddings; null takes them whole"},
    )
    num_experts: int = field(default=8, metadata={"help": "unisrec: experts of the adaptor"})
    adaptor_dropout: float = field(
        default=0.2, metadata={"help": "unisrec: dropout of the text embeddings that the experts read"}
    )
    reasoning: str = field(
        default="prl",
        metadata={"help": f"one of {', '.join(REASONING)}; erl ranks the mean of the states, the others the last"},
    )
    num_reasoning_steps: int = field(default=2, metadata={"help": "K, how often the last state is fed back"})
    reasoning_adapter_size: int = field(
        default=0, metadata={"help": "width of adapters that reasoning steps have for themselves; 0 shares all weights"}
    )
    kl_weight: float = field(
        default=0.05, metadata={"help": "erl: weight of the divergence between the states' distributions"}
    )
    temperature_scale: float = field(
        default=5.0, metadata={"help": "prl: factor between the temperatures of one state's loss and the next one's"}
    )
    progressive_weight: float = field(default=1.0, metadata={"help": "prl: weight of the losses of the earlier states"})
    contrastive_weight: float = field(
        default=1.0, metadata={"help": "prl: weight of the contrast between noised and clean states"}
    )
    noise_scale: float = field(default=0.01, metadata={"help": "prl: standard deviation of the noise"})
    noise_start_epoch: int = field(default=2, metadata={"help": "prl: epochs of training before the noise begins"})
    temperature: float = field(default=0.07, metadata={"help": "scores are divided by it; worth tuning"})
    loss_type: str = field(
        default="softmax",
        metadata={"help": f"one of {', '.join(LOSSES)}; the sampled ones are for catalogues too large for softmax"},
    )
    num_negatives: int = field(
        default=1, metadata={"help": "negatives of sampled_softmax (per batch) and bce (per target)"}
    )
    negative_sampling: str = field(
        default="uniform", metadata={"help": f"sampled_softmax: one of {', '.join(SAMPLING)}"}
    )

    pretrained_backbone_run: str | None = field(
        default=None,
        metadata={
            "help": "run folder of a pretraining (method: s3rec with positions_from: oldest) of the same data and "
            "sizes, whose weights the backbone starts from; for sasrec and bert4rec"
        },
    )
    windows: bool = field(
        default=False,
        metadata={
            "help": "read users of more than max_history items in windows: quicker by far, and some targets see half a "
            "history; otherwise each has a row of its own behind the first max_history items, as published"
        },
    )

    def __post_init__(self) -> None:
        from hf_genrec.methods.rearec.configuration_rearec import ReaRecConfig  # imports torch, which the keys need not

        # Catalogue and embeddings are not known yet: any sizes that fit.
        vector_size = 1 if self.reads_text else None
        ReaRecConfig(num_items=max(self.num_negatives, 1), item_vector_size=vector_size, **self.config_fields())
        if self.text_dim is not None and (not self.reads_text or self.text_dim < 1):
            raise ValueError(
                f"text_dim={self.text_dim} with backbone={self.backbone!r}: give at least 1 for unisrec and morec, and "
                f"leave it out for the others"
            )
        if self.pretrained_backbone_run is not None and self.reads_text:
            raise ValueError(
                f"pretrained_backbone_run with backbone={self.backbone!r}: give it to sasrec and bert4rec, which have "
                f"a vector per item"
            )
        if self.noise_start_epoch < 0:
            raise ValueError(f"noise_start_epoch must be 0 or more, not {self.noise_start_epoch}")

    @property
    def reads_text(self) -> bool:
        """Whether item vectors are made from text embeddings."""
        return self.backbone in ("unisrec", "morec")

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `ReaRecConfig`."""
        own = ("method", "text_dim", "noise_start_epoch", "pretrained_backbone_run", "windows")
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in own}
