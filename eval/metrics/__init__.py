"""Metrics as pure functions of tensors: retrieval, segmentation (prompted heatmaps), disentanglement, localization. Read them in this order."""
