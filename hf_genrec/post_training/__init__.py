"""A trained model -> a better one, by reinforcement learning."""
