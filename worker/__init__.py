"""The other door to the application: workers that take jobs and run each in a process of its own."""
