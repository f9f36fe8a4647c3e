"""Files on disk: their names, atomic writing, locks, fingerprints, the cache, and removal."""
