"""Alembic migrations of the state database; run by `tandem.database.Database.migrate`."""
