"""What a size of a model is at most: beyond it, building one takes all memory, or never ends."""

LARGEST = {
    "num_hidden_layers": 1_000,
    "num_encoder_layers": 1_000,
    "num_attention_heads": 2**16,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "reasoning_adapter_size": 2**16,
    "num_experts": 2**12,
    "num_queries": 2**10,
    "codebook_sizes": 2**20,
    "max_history": 2**20,
    "num_negatives": 2**24,
    "max_rollbacks": 1_000,
}
