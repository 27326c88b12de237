"""COBRA: an item's codes and then its dense vector, from one decoder."""
