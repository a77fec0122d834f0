"""A small generative vision-language model made of packages alone: the default encoder's grid,
a trained projector, SmolLM2 with LoRA.  Knows no fleet file and no statistics of evaluations."""
