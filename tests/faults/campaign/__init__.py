"""Faults, injected one at a time into the real commands: `make faults`. See docs/explanation/reliability.md."""
