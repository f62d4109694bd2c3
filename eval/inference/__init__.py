"""Inference on media of users: inputs in every common form, heatmaps of images and videos, embeddings."""
