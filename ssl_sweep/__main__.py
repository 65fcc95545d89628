"""`python -m ssl_sweep` is `ssl-sweep`."""

from ssl_sweep.cli import main

main()
