"""
Bad days, with real processes: `python -m tests.faults --runs 60`.

One run is a history from a seed: an agent buys from one of a few providers while
processes are killed, answers are lost and the chain's endpoint fails, until at least
one fault has happened. At the end the money is counted on the chain, and each request's
charge by what was signed for it (`charges`); `verdict` says what is not right.
"""
