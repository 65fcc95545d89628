"""Networks and their shared parts: encoders, decoders, heads, EMA copies, queues, batch norms, gathers across ranks.

Owns every `nn.Module` that is not a method. May import `data` and the packages below it; torch and torchvision.
Start with `encoder.py` (the base class) and `encoders.py` (the table of encoders).
"""
