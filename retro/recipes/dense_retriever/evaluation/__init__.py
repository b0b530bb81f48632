"""How well retrievers find: rankings, metrics, BEIR, the page of all of them."""
