"""Where sweeps are stored: a folder that all nodes see, or a bucket and each machine's copy of it.

Owns the layout of a storage and the transfer of files. May import `trialdir`; boto3 is imported only for a bucket.
Start with `layout.py`, the interface of `folder_storage.py` and `bucket_storage.py`.
"""
