"""How steps are computed, never what."""
