"""Layouts of data sets, one file each: `rows(source)` yields the clips of one split.

folder.py (any videos), audioset.py, vggsound.py, places_audio.py; youtube_segments.py holds what the tables of YouTube
segments share, filters.py the lists of ids and labels.
"""
