"""Settings of every command. Reading order: setting.py, schema.py and training.py (what can be set), load.py (defaults < YAML < arguments), command.py."""
