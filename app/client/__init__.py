"""What a person at a terminal does with a Stillhouse server, through its HTTP API alone.

The commands `distil` and `fetch`, and what the demo shares with them.
"""
