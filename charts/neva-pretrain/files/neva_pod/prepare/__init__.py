"""Makes what a run is given: tokenizer, vision encoder, language model, dataset."""
