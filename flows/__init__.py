"""The Prefect flows, and Ray under them: the only place, with the command line, that knows Prefect."""
