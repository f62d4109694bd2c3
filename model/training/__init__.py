"""Training, run by train.py. Reading order: step.py, optim.py, clipping.py, ema.py, checkpoint.py, checkpoint_manager.py, preemption.py, launch.py, tracking.py."""
