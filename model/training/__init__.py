"""Training, run by train.py. Start with build_model.py, gradient_accumulation.py and checkpoint.py."""
