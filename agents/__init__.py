"""What can read a study: specialists, generalists, people, and how they are trained.

Agents answer questions about one study at a time (batches for speed).  They know
nothing of routing: no policy, no ledger, no other agent's answer.
"""
