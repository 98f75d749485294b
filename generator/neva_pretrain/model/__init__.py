"""What is trained on what: the catalog of models, and GPUs."""
