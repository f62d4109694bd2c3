"""Encoders: frames or waveforms in, dense features out. tiny.py states the interface all of them share."""
