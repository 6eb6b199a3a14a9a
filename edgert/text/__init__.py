"""Text: tokenizer, chat template, sampling, and what ends an answer."""
