"""What several parts are built from: laws, tables."""
