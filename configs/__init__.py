"""Settings of every command. Reading order: field.py, schema and optim.py (what can be set), load.py (defaults < YAML < arguments), cli.py."""
