"""The ruler: how good the pictures are, by numbers that say how far they can be trusted.

Every measure is a function of arrays of features in float64; what turns pictures into features is
an argument (`extractors`). `python -m jaxdiff.evaluate` is the command line; docs/evaluation.md
says what each number means and how it is biased.
"""
