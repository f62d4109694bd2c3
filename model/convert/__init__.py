"""Convert published checkpoints for `from_pretrained`: one file per system, listed in __main__.converters."""
