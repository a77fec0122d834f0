"""Does routing pay here?  Response matrix, replay of policies, statistics, report.

The only place where a verdict is reached; models are called only to fill the matrix.
"""
