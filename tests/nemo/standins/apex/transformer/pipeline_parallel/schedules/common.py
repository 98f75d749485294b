"""The one helper that NeMo calls."""


def listify_model(model):
    """Return a model's parts as a list."""
    return model if isinstance(model, list) else [model]
