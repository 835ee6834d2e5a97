"""The servers that ours is compared with. They run in environments of their own and know nothing of the service."""
