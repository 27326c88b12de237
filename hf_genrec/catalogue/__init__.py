"""What can be recommended: ids, titles, codes, and who may be listed. Every file here travels with a saved model."""
