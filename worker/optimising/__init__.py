"""A classifier in other forms, and how they compare. Pure: no session, no settings, no job ids, no print."""

from app import libraries

__all__ = ("libraries",)  # before any module here takes parts of them
