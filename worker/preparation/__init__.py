"""Turns what a user brought (uploads, model folders, hub repositories) into checked folders. Torch-free."""
