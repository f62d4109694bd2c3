"""Metrics as pure functions of tensors: retrieval, segmentation (prompted heatmaps), class_pixels (all those of a class), disentanglement, localization
(regions), sounding (is a source in view at all?), mask_overlap (exact masks), thresholds (where they are chosen), intervals (how far a number would
move). Read them in this order."""
