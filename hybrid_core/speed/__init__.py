"""How fast a design can be: the ceilings of accelerators, and forecasts."""
