"""Novelty scores, one family a module, all behind :class:`curbside.indexes.novelty.Novelty`.

They know unit vectors, classes and cosines; no calibration, no index and no case.
"""
