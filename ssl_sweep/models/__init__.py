"""Networks and their shared pieces: encoders and decoders, heads, EMA copies, queues, batch normalisation, gathers."""
