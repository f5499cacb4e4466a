"""Days on which something that Stillhouse stands on is away, full, late or old: what clients and operators see then.

One thing goes wrong at a time, on purpose and at a known moment, on real servers and with real processes. Many at
once, at random moments: tests/chaos.
"""
