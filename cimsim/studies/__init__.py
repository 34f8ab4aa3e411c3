"""Many simulations: what is asked, what is kept, who runs it."""
