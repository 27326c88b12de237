"""A page to try a model on: histories by title, recommendations, and how the model came to them."""
