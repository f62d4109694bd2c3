"""Training. Reading order: step.py (features, gather, loss, backward), optim.py, checkpoint.py, tracking.py; train.py at the top runs them."""
