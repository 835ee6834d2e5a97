"""The Python client and the command line of Graft; they know the service by its HTTP interface alone."""
