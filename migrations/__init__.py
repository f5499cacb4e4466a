"""Migrations of the database, run by `app.db.migrate`."""
