"""One torch-free file per kind of feed-forward."""
