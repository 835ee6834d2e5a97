"""A classifier in other forms, and how they compare. Pure: no session, no settings, no job ids, no print."""
