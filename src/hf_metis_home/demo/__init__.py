"""The whole method in minutes, with controls and a report (`metis-home demo`)."""
