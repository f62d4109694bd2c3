"""What makes features meet. Reading order: projection.py (encoder features into one space), masks.py (waveform masks at feature rate),
similarity.py (the scores, written plainly), fused.py (the same numbers without the volume), losses.py (the objective), denseav.py (the model)."""
