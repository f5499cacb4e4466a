"""How many requests the API answers, beside a bare FastAPI route on the same PostgreSQL: `make bench-api`."""
