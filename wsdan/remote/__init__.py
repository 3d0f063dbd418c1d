"""Files behind fsspec addresses: s3://, gs://, hf://, https:// and others.

fsspec is imported at the first access, and never for a path of this machine.
"""
