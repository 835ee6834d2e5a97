"""Plans: recipes resolved against a version before anything is trained."""
