"""Encoders: frames or waveforms in, dense features out. encoder.py defines their interface, registry.py their names."""
