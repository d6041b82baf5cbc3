"""Fuzzing of the paywall, the payer and the facilitator: `python -m tests.fuzz`."""
