"""Settings of every command. Reading order: schema.py (what can be set), load.py (defaults < YAML < command line), command.py (exit codes)."""
