"""Conversations about one image: prompts, chat formats, and the one path of tokenisation for training and inference."""
