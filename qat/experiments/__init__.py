"""What `cimsim train`, `search` and `codesign` run, all as jobs."""
