"""Serve: bundles behind HTTP, for programs that speak OpenAI's API.

A request comes in by `app`, is read by its API (`openai/`), and asks at the `desk`, which gives it a place in
the queue, its model (`models`) and the stream of its answer.
"""
