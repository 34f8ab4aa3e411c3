"""What a chip is: from YAML to a typed record."""
