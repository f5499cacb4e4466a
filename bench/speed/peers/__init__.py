"""Programs that distil with another library, each run by the Python of an environment of its own.

They import nothing of Stillhouse: `shared.py` beside them, and the libraries of their requirements file.
"""
