"""One clip of media into frames and waveform. Reading order: container.py, packet_scan.py, audio_track.py, frame_selection.py, frames_pyav.py, clip.py."""
