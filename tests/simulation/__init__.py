"""
Histories from seeds: the pure rules, in a model of everything around them.

`python -m tests.simulation` runs many and counts; a seed that fails is run again, step
by step, with `--seed`.
"""
