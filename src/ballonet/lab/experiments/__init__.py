"""One experiment a module; questions.py has them in the order in which they are read."""
