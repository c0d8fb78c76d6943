"""Corpora, captions, tokenizers and the one pipeline that serves them to training."""
