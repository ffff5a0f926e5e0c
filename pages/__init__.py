"""The pages and their shared parts."""
