"""What becomes of a run in weeks, failures and all: a discrete-event simulation on the plan's times.

`scenario.py` says what is simulated, `simulated_run.py` simulates it, `goodput.py` sums runs up, `answers.py` compares
settings. docs/simulate.md explains it.
"""
