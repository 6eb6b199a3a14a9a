"""Answering: what an answer is made of, how it is read, and the conversation it is part of."""
