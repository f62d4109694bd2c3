"""Convert published checkpoints for `from_pretrained`: one file per system, listed in checkpoint_file.converters."""
