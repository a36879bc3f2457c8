"""Regularizers of matrices, filters of gradients, parameter pairs: a row in each of the tables."""

TRANSFORMS = {}  # as in table.py
PRESETS = {}
RULES = []  # as in test_against_references.py
BY_HAND = []  # as in test_by_hand.py
ALLOWED = {}  # as in test_errors.py
REFUSED = {}
REPLAYS = {}  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
