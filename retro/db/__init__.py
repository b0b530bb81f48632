"""Stage 2: cut every document into chunks. Tokens stay in the token files; the database says where they are."""
