"""Conversion of checkpoints written by the authors' released code (model type ``locllm``)."""
