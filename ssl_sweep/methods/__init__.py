"""One file a method, found by its name; each has a class `Method(encoder, *, knobs)` (see `ssl_sweep.pretrain`)."""
