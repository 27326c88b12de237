"""What may stand in a configuration of post-training."""

from hf_genrec.training.config import Kind
from hf_genrec.training.known_keys import DeclaredArguments

GRPO_KINDS = {
    "grpo": Kind(
        [
            DeclaredArguments(
                "hf_genrec.post_training.grpo_arguments.GRPOArguments",
                "trl.trainer.grpo_config.GRPOConfig",
                "trl.trainer.base_config._BaseConfig",
                "transformers.training_args.TrainingArguments",
            )
        ]
    )
}
