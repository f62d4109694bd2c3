"""Training, run by train.py. Reading order: step.py, optim.py, clipping.py, ema.py, checkpoint.py, shelf.py, preemption.py, processes.py, tracking.py."""
