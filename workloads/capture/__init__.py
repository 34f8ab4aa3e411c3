"""From a torch module to the layers that hardware sees."""
