"""Settings of every command. Reading order: field.py, schema/ (what can be set), load.py (defaults < YAML < arguments),
schema_check.py (what is allowed), help.py, cli.py (entry point of a command), validate.py (training only)."""
