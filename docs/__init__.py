"""Documents, and the program that redraws what they show."""
