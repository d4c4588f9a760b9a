"""Plausibility: whether explanations agree with phonetics and linguistics (the analyses of the paper's §8)."""
