"""Attention of a traced graph becomes GroupQueryAttention, which appends keys and values in place.

Families and versions of transformers write attention in dozens of ways. So it is recognized by what it
computes, not by how it is written: the graph runs over random tokens and a random cache, and the numbers
on the way show scale, window, soft cap, ALiBi's slopes and rotary embedding (`scores`, `rotary`). Only where
to look is read from the graph: between the cache of a layer and its Softmax (`anchors`).
"""
