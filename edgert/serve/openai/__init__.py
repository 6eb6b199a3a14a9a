"""OpenAI's API, as https://platform.openai.com/docs/api-reference describes it."""
