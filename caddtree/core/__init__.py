"""The domain types and the one decoding loop; start reading at ``core/pipeline.py``."""
