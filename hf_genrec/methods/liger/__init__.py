"""LIGER: codes bring the candidates, a dense vector ranks them."""
