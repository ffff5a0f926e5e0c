"""One torch-free file per kind of layer: its fields and rules, its closed forms and its cache.
`registry` collects them."""
