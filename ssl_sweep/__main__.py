"""`python -m ssl_sweep` is `ssl-sweep`."""

import sys

if not sys.flags.safe_path:  # `-m` looks into the current directory first: a torchvision.py that lies there is none
    del sys.path[0]

from ssl_sweep.cli import main

main()
