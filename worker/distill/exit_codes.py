"""How the engine ends, as its parent reads it."""

SUCCEEDED = 0
FAILED = 70  # the last event says why
STOPPED = 75  # asked to stop; a checkpoint was written if there was anything to keep
DISK_FULL = 74  # failed for want of room; the events may lack their last line for the same reason
