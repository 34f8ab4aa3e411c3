"""Laws and tables that several parts are built from."""
