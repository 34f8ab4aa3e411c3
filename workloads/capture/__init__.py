"""From a torch module and an example input to the layers that hardware sees."""
