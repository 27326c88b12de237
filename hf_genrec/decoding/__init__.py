"""How lists are made: beam search, exact scores, users' caches. Every file here travels with a saved model."""
