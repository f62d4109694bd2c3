"""Decodes one clip of media into frames and a waveform.

Reading order: container.py, packet_scan.py, audio_track.py, frame_selection.py, frames_pyav.py, clip.py.
"""
