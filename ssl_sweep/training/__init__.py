"""The training loop that resumes to the bit, optimisers, pretraining, health, and the shared parts of evaluations.

Owns epochs, checkpoints of a stage, frozen features, probes, neighbours, and what a method may declare. May import
`models` and the packages below it. It knows no method and no evaluation. Start with `loop.py`, then `pretrain.py`.
"""
