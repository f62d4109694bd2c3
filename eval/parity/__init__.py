"""Golden cases of the reference implementations: cases.py runs and compares them, released_checkpoint.py the full-size model."""
