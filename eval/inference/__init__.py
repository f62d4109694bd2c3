"""Inference on media of users.

inputs.py (images and sounds in every common form), encode.py, localizer.py (the public object), localization.py (its
result), video.py; video_reader.py (reading, with flat memory), stream_maps.py (heatmaps over time).
"""
