"""How the engine ends, as its parent reads it."""

SUCCEEDED = 0
FAILED = 70  # the last event says why
NO_DEVICE = 69  # there is no GPU that computes where one is wanted; nothing was begun
DEVICE_LOST = 71  # the GPU failed in the middle of the work; the last event says how
STOPPED = 75  # asked to stop; a checkpoint was written if there was anything to keep
DISK_FULL = 74  # failed for want of room; the events may lack their last line for the same reason
