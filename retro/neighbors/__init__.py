"""Stage 4: for every chunk of the training streams, the rows of the database most like it."""
