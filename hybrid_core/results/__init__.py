"""What runs find, one typed model for each part of a result. No torch: pages read them too."""
