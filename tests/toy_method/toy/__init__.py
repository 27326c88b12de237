"""A method as small as one can be: the mean of a history's code embeddings against the sum of each item's."""
