"""Generative recommenders that reason, as Hugging Face models."""

__version__ = "0.1.0"
