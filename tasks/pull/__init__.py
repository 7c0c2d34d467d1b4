"""Pulling images over HTTP: politely, safely, and with a reason for every row that has no image."""
