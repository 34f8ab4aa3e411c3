"""Programs that make the documents' figures and tables."""
