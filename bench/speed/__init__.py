"""Whole distillation jobs through Stillhouse's engine, and through what else a user would take: `make bench-speed`."""
