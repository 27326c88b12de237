"""Interaction logs -> filtered, ordered sequences and their train, validation and test parts."""
