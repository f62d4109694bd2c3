"""Published checkpoints into a folder that from_pretrained reads: one converter for each published system."""
