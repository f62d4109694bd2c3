"""Golden cases of the reference implementations.

cases.py reads and compares them, registry.py lists their kinds, the other files compute them.
"""
