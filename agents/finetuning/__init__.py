"""Adapting agents to labelled cases: checks, recipes, training through peft, trl and accelerate.

Knows cases and models; knows nothing of routing, and enters nothing in a fleet.
"""
