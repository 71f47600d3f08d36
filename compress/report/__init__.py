"""The report: one typed value that is filled where things are measured, saved, and read by every page.

A row says in fields what it is about, a figure comes with its interval. Imports `settings`, `files` and errors alone.
Start reading with `parts.py`.
"""
