"""Vision encoder, projector and language model as one Hugging Face model; Lightning is not imported here."""
