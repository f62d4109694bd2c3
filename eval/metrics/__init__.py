"""Metrics as pure functions.

retrieval, segmentation (prompted heatmaps), pixel_ap (all pixels of a class), disentanglement, localization (regions),
detection (is a source in view?), mask_iou (exact masks), threshold_selection, bootstrap (95 % intervals).
"""
