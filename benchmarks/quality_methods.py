"""The cells of `benchmarks.quality`: what each changes of a configuration."""

from typing import Any

DATA_SETS = {"amazon2014_beauty": "beauty", "amazon2014_toys": "toys", "yelp2019": "yelp"}  # what configs/ calls them
# Keys that name finished cells: a method, of the same seed or, with `+1`, of the next one; `@14` minutes, or the usual.
CELLS_OF = ("collaborative_run", "soft_targets_run", "dense_run", "members_runs", "stage1_run")
CHEAPLY_EVALUATED = ("rearec", "s3rec", "ensemble")  # by one product with all items: once an epoch
AS_PUBLISHED = ("care", "rearec")  # their cells vary what was published, not what was found to be best
CODES_OF = "codes of "  # a cell, as a part of what it took
RECOMMENDER_CODES = {"collaborative_run": "rearec-none"}  # the finished cell of this method, at the usual budget
NO_QUERIES_RECOMMENDER_CODES = {"num_queries": [0]} | RECOMMENDER_CODES
CENTROIDS = {"code_embeddings": "centroids"}
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
# Faster than the rate of eight codebooks, which at this one learn a third less in the same time.
FEW_CODEBOOKS = {"learning_rate": 0.004}
FOUR_CODEBOOKS = FEW_CODEBOOKS | {"codebook_sizes": [300] * 4}
TWO_RECOMMENDERS = "ensemble-two-rearec-none"
SOFT_TARGETS = {"soft_targets_run": "rearec-none", "soft_targets_weight": 0.1}  # of one recommender, as published
LETTER_CODES = {"item_tokenizer": "letter", "vectors": "text", "latent_dim": 64, "alignment_weight": 1.0}
LETTER_CODES |= RECOMMENDER_CODES | {"tokenizer_epochs": 120}
DISTILLED = RECOMMENDER_CODES | {
    "soft_targets_run": TWO_RECOMMENDERS,
    "soft_targets_weight": 0.5,
    "soft_targets_temperature": 2.0,  # the sum of two recommenders' scores is as sharp as their product
    "soft_targets_loss": "cross_entropy",
}
BACKBONES, REASONING = ("bert4rec", "unisrec", "morec"), ("none", "erl", "prl")
REAREC_AS_PUBLISHED = {"temperature": 0.07, "temperature_scale": 5.0, "hidden_dropout": 0.5, "attention_dropout": 0.5}
# A method begins with the folder of its configurations.
METHODS: dict[str, dict[str, Any]] = {
    "care": {},
    "care-no-queries": {"num_queries": [0]},
    "care-two-queries": {"num_queries": [2]},
    "care-no-progressive": {"progressive": [False]},
    "care-no-diversity": {"query_diversity_weight": 0.0},
    "care-letter-codes": {"codes_path": "letter_semantic_ids.tsv"},  # in the folder of the data
    "care-text-codes": {"vectors": "text"},
    "care-collaborative-codes": {"vectors": "collaborative"},
    "care-recommender-codes": RECOMMENDER_CODES,
    "care-no-queries-recommender-codes": NO_QUERIES_RECOMMENDER_CODES,
    "care-no-queries-recommender-codes-dropout": NO_QUERIES_RECOMMENDER_CODES | DROPOUT,
    "care-no-queries-recommender-codes-centroids": NO_QUERIES_RECOMMENDER_CODES | CENTROIDS,
    "care-no-queries-recommender-codes-centroids-dropout": NO_QUERIES_RECOMMENDER_CODES | CENTROIDS | DROPOUT,
    "care-recommender-codes-centroids-dropout": RECOMMENDER_CODES | CENTROIDS | DROPOUT,
    "care-no-queries-recommender-codes-centroids-dropout-soft-targets": NO_QUERIES_RECOMMENDER_CODES
    | CENTROIDS
    | DROPOUT
    | SOFT_TARGETS,
    "care-extra-code": {"collisions": "extra_code"},
    "care-centroids": CENTROIDS,
    "care-dropout": DROPOUT,
    "care-dropout-3": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "care-smoothing": {"label_smoothing": 0.1},
    "care-hidden-64": {"hidden_size": 64, "intermediate_size": 128},
    "care-hidden-256": {"hidden_size": 256, "intermediate_size": 512},
    "care-4-layers": {"num_hidden_layers": 4},
    "care-history-20": {"max_history": 20},
    "care-bf16": {"bf16": True, "use_cpu": True},
    "rearec-none": {"reasoning": "none"},
    "rearec-none-dropout-5": {"reasoning": "none", "hidden_dropout": 0.5, "attention_dropout": 0.5},
    "rearec-naive": {"reasoning": "naive"},
    "rearec-rpe": {"reasoning": "rpe"},
    "rearec-erl": {"reasoning": "erl"},
    "rearec-prl": {"reasoning": "prl"},
    "rearec-prl-temperature-0.3": {"reasoning": "prl", "temperature": 0.3},
    "rearec-erl-adapter": {"reasoning": "erl", "reasoning_adapter_size": 16},
    "rearec-prl-adapter": {"reasoning": "prl", "reasoning_adapter_size": 16},
    "rearec-erl-no-kl": {"reasoning": "erl", "kl_weight": 0.0},
    "rearec-prl-no-contrast": {"reasoning": "prl", "contrastive_weight": 0.0},
    **{f"rearec-{way}-as-published": {"reasoning": way} | REAREC_AS_PUBLISHED for way in REASONING},
    **{
        f"rearec-{way}-{steps}-steps": {"reasoning": way, "num_reasoning_steps": steps}
        for way in REASONING[1:]
        for steps in (1, 3, 4, 5)
    },
    **{
        f"rearec-{backbone}-{way}": {"backbone": backbone, "reasoning": way}
        for backbone in BACKBONES
        for way in REASONING
    },
    TWO_RECOMMENDERS: {"members_runs": ["rearec-none", "rearec-none+1"]},
    "ensemble-codetree-and-two": {"members_runs": ["codetree-distilled@14", "rearec-none", "rearec-none+1"]},
    "codetree": {"collaborative_dim": 128},
    "codetree-recommender-codes": RECOMMENDER_CODES,
    "codetree-letter-codes": LETTER_CODES,
    "codetree-coba-codes": {"item_tokenizer": "coba", "vectors": "propagated"},
    "codetree-soft-targets": RECOMMENDER_CODES | SOFT_TARGETS,
    "codetree-distilled": DISTILLED,
    "codetree-distilled-from-one": DISTILLED | {"soft_targets_run": "rearec-none", "soft_targets_temperature": 1.0},
    "tiger-recommender-codes": RECOMMENDER_CODES,
    "tiger": {},
    "stream": {"stage1_run": "tiger@15"},
    "stream-random-traces": {"stage1_run": "tiger@15", "traces": "random"},
    "stream-no-thinking": {"stage1_run": "tiger@15", "num_thinking_tokens": 0},
    "s3rec": {},
    "s3rec-softmax": {"loss_type": "softmax"},
    "s3rec-softmax-no-pretraining": {"loss_type": "softmax", "pretrain_epochs": 0},
    "mdgr": {},
    "mdgr-guided": {"views": "guided"},
    "mdgr-recommender-codes": RECOMMENDER_CODES,
    "s2gr-recommender-codes": RECOMMENDER_CODES,
    "liger-recommender-codes": RECOMMENDER_CODES,
    "cobra-recommender-codes": RECOMMENDER_CODES,
    "reg4rec": {},
    "reg4rec-2-codebooks": FEW_CODEBOOKS | {"codebook_sizes": [300] * 2},
    "reg4rec-4-codebooks": FOUR_CODEBOOKS,
    "reg4rec-4-codebooks-recommender-codes": FOUR_CODEBOOKS | RECOMMENDER_CODES,
    # as many residual codebooks, as large
    "reg4rec-4-codebooks-residual": FOUR_CODEBOOKS | {"item_tokenizer": "rq_vae", "code_order": "fixed"},
    "reg4rec-4-codebooks-fixed-order": FOUR_CODEBOOKS | {"code_order": "fixed"},
    "reg4rec-12-codebooks": {"codebook_sizes": [300] * 12},
}
