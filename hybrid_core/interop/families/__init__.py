"""Each family of published configs as one function: its fields become the sections of a design."""
