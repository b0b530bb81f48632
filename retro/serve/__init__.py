"""An OpenAI-compatible server: completions and chats, with the passages that each answer was conditioned on."""
