"""Several trained recommenders as one: their scores are added up."""
