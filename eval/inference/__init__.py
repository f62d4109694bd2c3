"""Inference on media of users: video_reader.py (reading, with flat memory), stream_maps.py (heatmaps over time)."""
