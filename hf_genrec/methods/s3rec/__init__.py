"""S3-Rec: a recommender that is trained on four tasks of its own before it learns to predict the next item."""
