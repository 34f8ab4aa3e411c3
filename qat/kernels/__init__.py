"""One pass over memory: the inner loops of training, each with a plain twin."""
