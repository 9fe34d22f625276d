"""What a run tells people: the event log, live progress, trackers and the HTML report.

Nothing here imports torch or transformers, so a report can be written anywhere the run directory is.
"""
