"""Conversations about one image: prompts, chat formats, and the one path of tokenization for training and inference."""
