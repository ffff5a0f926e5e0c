"""The results of runs, one typed model for each part. No torch here: pages read them, too."""
