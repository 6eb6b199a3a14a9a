"""The page at `/`: the files in `web/`, and its conversations, which are the sessions of the chat."""
