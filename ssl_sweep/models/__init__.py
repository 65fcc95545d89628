"""Networks and their shared pieces: encoders, decoders, heads, EMA copies, queues, batch norms, gathers across ranks.

Owns every `nn.Module` that is not a method. May import `data` and what lies below it; torch and torchvision.
Start with `encoder.py` (what an encoder is) and `encoders.py` (which there are).
"""
