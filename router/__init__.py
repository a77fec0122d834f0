"""Who reads a case: intake, encode, assess, decide and read, record.

Decisions are columnar and pure (``policies``); the graph that serves them is thin.
"""
