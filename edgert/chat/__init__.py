"""Chat: the conversation at the terminal."""
