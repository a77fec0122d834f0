"""What has been seen: encoder and projection, FAISS index, novelty, calibration, competence.

Everything here looks at pixels alone.  It knows no question, no options and no policy.
"""
