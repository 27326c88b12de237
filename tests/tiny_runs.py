"""A run of every method on one tiny log, for what must hold for all of them."""

from pathlib import Path

import numpy as np
from conftest import ITEMS, config_beside

from hf_genrec.method import load_method
from hf_genrec.trainers import prepare_data, tokenize_items
from hf_genrec.training.config import RunConfig, parse_config

DATA = ("source", "item_path", "user_column", "item_column", "time_column", "title_column")
COMMON = """
max_history: 6
hidden_size: 16
intermediate_size: 32
num_train_epochs: 1
per_device_train_batch_size: 8
logging_steps: 1
use_cpu: true
"""
CODES = "codebook_sizes: [4, 4, 4]\n"
COARSE = "codebook_sizes: [4, 4]\ncollisions: keep\n"
T5 = CODES + "num_encoder_layers: 1\nnum_hidden_layers: 1\nnum_attention_heads: 2\nhead_dim: 8\n"
# What the models are built with here, by the method; behind a slash another way of the same method.
KEYS = {
    "care": CODES,
    "care/rows": CODES + "packing: false\n",
    "codetree": CODES,
    "cobra": COARSE + "item_embeddings: true\n",
    "cobra/rows": COARSE + "packing: false\nnegatives: other_users\n",
    "liger": T5 + "projector_sizes: [8]\n",
    "rearec": "",
    "rearec/prl": "reasoning: prl\n",
    "rearec/sampled": "loss_type: sampled_softmax\nnum_negatives: 5\n",
    "reg4rec": CODES,
    "s2gr": T5 + "num_clusters: 2\n",
    "tiger": T5,
}


def prepared_run(own_data: Path, name: str) -> RunConfig:
    """The configuration of one of [`KEYS`] in a folder of its own, its data prepared and its items tokenized."""
    method, folder = name.partition("/")[0], own_data / f"tiny-{name.replace('/', '-')}"
    keys = f"method: {method}\noutput_dir: {folder}{COMMON}{KEYS[name]}"
    has_codes = load_method(method).codes is not None
    if has_codes:
        np.save(own_data / "vectors.npy", np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32))
        (own_data / "vectors.ids.txt").write_text("\n".join(f"f{item:02d}" for item in range(ITEMS)) + "\n")
        keys = f"embeddings_path: {own_data}/vectors.npy\nprojection_dim: 4\n{keys}"
    config = parse_config(str(config_beside(own_data, f"{folder.name}.yaml", f"\n{keys}", DATA)))
    prepare_data.main(config)
    if has_codes:
        tokenize_items.main(config)
    return config
