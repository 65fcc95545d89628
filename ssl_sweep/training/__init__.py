"""The training loop that resumes to the bit, optimisers, pretraining, health, and what evaluations share.

Owns epochs, checkpoints of a stage, frozen features, probes and neighbours. May import `models` and what lies below it.
It knows no method and no evaluation. Start with `loop.py`, then `pretrain.py`.
"""
