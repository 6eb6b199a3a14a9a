"""Engine: a graph at work on a device; tokens in, logits out. Knows no text."""
