"""Public formats of questions and chats, read strictly."""
