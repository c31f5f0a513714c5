"""Which videos, with which labels, and the one road from a file to a network's input."""
