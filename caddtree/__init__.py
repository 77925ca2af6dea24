"""Lossless speculative decoding with cost-aware draft trees."""
