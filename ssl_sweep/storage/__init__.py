"""Where sweeps lie: a folder that all nodes see, or a bucket and each machine's copy of it.

Owns the layout of a storage and the transfer of files. May import `trialdir`; boto3 is imported only for a bucket.
Start with `layout.py`.
"""
