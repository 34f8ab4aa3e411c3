"""Published figures against modelled ones: reading references, measuring chips, verdicts, and the joint fit."""
